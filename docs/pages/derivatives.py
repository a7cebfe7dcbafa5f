"""docs/derivatives: a page for each artificial derivative, with its picture."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gradscope.derivatives import Derivative, derivatives
from gradscope.discovery import summary
from pages.parts import DOCS, Picture, cell, table

FOLDER = DOCS / "derivatives"
POINTS = 241
SHOWN = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
REACH = {"isigmoid-min": 0.05, "round": 2.0, "sign": 2.0, "heaviside": 2.0}
"""How far from zero the picture goes, by derivative or operator; else 6."""
GREY = "#7d7d7d"  # is read on white and on black
TRUE, ARTIFICIAL = "the operator's own", "artificial"
INTRODUCTION = """\
The forward pass stays the operator of torch, bit for bit; only the backward pass multiplies by
another slope. Each page has the formula, its source, a picture of both slopes made from the code,
and the parameters. [artificial-derivative](../remedies/artificial-derivative.md) is the remedy that
uses them, and says when it must not be applied;
[the search](../experiments/derivative-search.md) and
[the bias meter](../experiments/bias-meter.md) say with numbers what they do.

"""
LIMITS_OF_USE = """\
In a network that learns, it replaces a right gradient by a wrong one: `gradscope.bias` measures by
how much. Nor does it help where the forward signal has collapsed, because a larger gradient has
nothing to sort there.
[When it must not be applied](../remedies/artificial-derivative.md#when-it-must-not-be-applied) has
the measurements.
"""
SELECTIVE = {
    True: "By default only units that are idle on the whole batch get it; the gradient of live "
    "ones stays exact.",
    False: "With `selective=True` only units that are idle on the whole batch get it, and the "
    "gradient of live ones stays exact; by default all units do.",
}


def pages() -> Iterator[tuple[Path, str | Picture]]:
    kinds = derivatives()
    yield (
        FOLDER / "index.md",
        "# Derivatives\n\n"
        + INTRODUCTION
        + table(
            ("derivative", "of", "formula", "what it is"),
            [
                (f"[{name}]({name}.md)", operator(kind), f"`{kind.formula}`", cell(summary(kind())))
                for name, kind in kinds.items()
            ],
        ),
    )
    for name, kind in kinds.items():
        yield FOLDER / f"{name}.md", page_of(kind())
        yield FOLDER / f"{name}.svg", picture_of(kind())


def page_of(derivative: Derivative) -> str:
    doc = inspect.cleandoc(sys.modules[type(derivative).__module__].__doc__ or "")
    title, _, rest = doc.partition("\n\n")
    selective = getattr(derivative, "selective", None)
    facts = [
        ("Operator", operator(type(derivative))),
        ("Formula", f"`{derivative.formula}`"),
        ("Source", cell(derivative.source)),
        ("Stands in for", ", ".join(f"`{each}`" for each in reached(derivative))),
    ]
    x = torch.tensor(SHOWN, dtype=torch.float64) * reach(derivative) / 6
    true, artificial = slopes(derivative, x)
    rows = [
        (f"{at:.3g}", f"{was:.3g}", f"{now:.3g}")
        for at, was, now in zip(x.tolist(), true, artificial, strict=True)
    ]
    own = fields(derivative)  # type: ignore[arg-type]
    meanings = described(derivative)
    parameters = [
        (entry.name, "none" if entry.default is None else f"{entry.default}", meanings[entry.name])
        for entry in own
    ]
    return (
        f"# {derivative.name}\n\n{title}\n\n{rest}\n\n"
        f"![The slope that the backward pass multiplies by, over the input x: {TRUE} and the "
        f"{ARTIFICIAL} one of {derivative.name}. The table below has numbers.]"
        f"({derivative.name}.svg)\n\n"
        + "".join(f"- {what}: {fact}\n" for what, fact in facts)
        + "\n## The slopes in numbers\n\n"
        + table(("x", TRUE, ARTIFICIAL), rows)
        + "\n## When it is wrong\n\n"
        + (f"{SELECTIVE[selective]}\n\n" if selective is not None else "")
        + LIMITS_OF_USE
        + "\n## Parameters\n\n"
        + (table(("parameter", "default", "meaning"), parameters) if own else "It has none.\n")
        + "\n## Use it\n\n"
        + f'`gradscope.replace_derivative(model, "{derivative.name}")`, or'
        + f" `derivative: {derivative.name}` of `artificial-derivative` in a plan.\n"
    )


def operator(kind: type[Derivative]) -> str:
    return kind.native.__name__ if kind.native is not None else kind.operators[0]


def reached(derivative: Derivative) -> list[str]:
    modules = []
    if derivative.native is not None:
        torch_has = derivative.native.__module__.startswith("torch.")
        modules = [f"{'nn.' if torch_has else ''}{derivative.native.__name__}"]
    return [*modules, *derivative.operators]


def described(derivative: Derivative) -> dict[str, str]:
    """What the docstrings say of each parameter, those of base classes first."""
    found: dict[str, str] = {}
    for kind in reversed(type(derivative).__mro__):
        # Not inspect.getdoc, which takes that of a base class.
        doc = inspect.cleandoc(vars(kind).get("__doc__") or "")
        _, _, attributes = doc.partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
            found[name] = cell(text)
    return found


def reach(derivative: Derivative) -> float:
    """How far from zero the picture goes."""
    return REACH.get(derivative.name, REACH.get(operator(type(derivative)), 6.0))


def slopes(derivative: Derivative, x: torch.Tensor) -> tuple[list[float], list[float]]:
    """The operator's own slope and the artificial one, rounded so that all machines agree."""
    ones = torch.ones_like(x)
    arguments = dict(derivative.arguments)
    if "values" in arguments:  # what heaviside is at 0
        arguments["values"] = torch.zeros((), dtype=x.dtype)
    y = derivative.operator(x, **arguments)
    true, artificial = (
        [round(value, 5) + 0.0 for value in of(ones, x, y, **arguments).tolist()]
        for of in (derivative.true, derivative.artificial)
    )
    return true, artificial


def picture_of(derivative: Derivative) -> Picture:
    furthest = reach(derivative)
    x = torch.linspace(-furthest, furthest, POINTS, dtype=torch.float64)
    data: list[dict[str, Any]] = [
        {"x": round(at, 6), "slope": slope, "derivative": name}
        for name, values in zip((TRUE, ARTIFICIAL), slopes(derivative, x), strict=True)
        for at, slope in zip(x.tolist(), values, strict=True)
    ]
    digest = hashlib.sha256(json.dumps(data).encode()).hexdigest()
    mark = f"<!-- {derivative.name}, sha256 of its points {digest} -->"
    return Picture(mark, partial(drawn, data, mark))


def drawn(data: list[dict[str, Any]], mark: str) -> str:
    """Lines on no background, in colours that can be read on white and on black."""
    import altair as alt
    import vl_convert

    colours = alt.Scale(domain=[TRUE, ARTIFICIAL], range=["#3d85c6", "#e0701a"])
    dashes = alt.Scale(domain=[TRUE, ARTIFICIAL], range=[[6, 4], [1, 0]])
    legend = alt.Legend(title=None, orient="top", columnPadding=30, symbolStrokeWidth=2.5)
    chart = (
        alt.Chart(alt.Data(values=data))
        .mark_line(strokeWidth=2.5)
        .encode(
            x=alt.X("x:Q", title="input x"),
            y=alt.Y("slope:Q", title="slope in the backward pass"),
            color=alt.Color("derivative:N", scale=colours, legend=legend),
            strokeDash=alt.StrokeDash("derivative:N", scale=dashes, legend=legend),
        )
        .properties(width=460, height=240)
        .configure(background="transparent")
        .configure_axis(
            labelColor=GREY,
            titleColor=GREY,
            gridColor=GREY,
            gridOpacity=0.25,
            labelFontSize=13,
            titleFontSize=13,
            titleFontWeight="normal",
        )
        .configure_legend(labelColor=GREY, labelFontSize=14)
        .configure_view(stroke=None)
    )
    svg = vl_convert.vegalite_to_svg(chart.to_dict())
    return svg.replace(">", f">{mark}", 1) + "\n"
