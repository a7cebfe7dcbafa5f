"""Heat maps as Vega-Lite specifications: shades of one colour of the page, in light and in dark.

Neighbouring cells of one shade are drawn as one. What a logarithm cannot show is struck through: a
line, not a second colour, says so. As in charts, ``low`` and ``high`` are the part of the x axis
that is shown, names are data, and ``chosen`` is the row to put a frame around.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import Any

from gradscope.reports.drawing.svg import STYLE, WIDTH, as_one, drawn
from gradscope.reports.nodes import HeatMap
from gradscope.reports.wording import each_string, number, percent, shortened, visible

__all__ = ["draw_heat_map", "heat_specification", "shades"]

_ROW_HEIGHT, _LEAST_ROW_HEIGHT = 16, 2
_MOST_HEIGHT = 400
_LABEL_HEIGHT = 13
"""Rows lower than this cannot each have their name beside them."""
_NAME_LENGTH = 17
_SHADES = 12
_IN_LEGEND = 2
"""Steps between shades in the legend, at most: it has to fit on a phone."""
_FAINTEST = 0.06
_LETTERS = "abcdefghijkl"
_BLANK, _STRUCK = " ", "x"
"""A cell without a value, and one with a value that has no shade."""


def draw_heat_map(heat: HeatMap, identity: str) -> str:
    """The heat map as one ``<svg>`` element; ``identity`` is unique in the page."""
    heat = each_string(heat, visible)  # a control character ends the library's process
    specification = heat_specification(heat)
    specification["datasets"] = _cells(heat)
    return as_one(drawn(specification, f"{heat.title}. {heat.summary}", identity))


def heat_specification(heat: HeatMap) -> dict[str, Any]:
    """The heat map in Vega-Lite's terms, without its cells."""
    import altair as alt

    rows = max(1, len(heat.rows))
    each = max(_LEAST_ROW_HEIGHT, min(_ROW_HEIGHT, _MOST_HEIGHT // rows))
    apart = math.ceil(_LABEL_HEIGHT / each)
    x = alt.X(
        "x:Q",
        title=textwrap.wrap(heat.x_title, 40),
        scale=alt.Scale(
            domain=[{"expr": "low"}, {"expr": "high"}], nice=False, zero=False, round=True
        ),
        axis=alt.Axis(tickMinStep=1, format=",d", grid=False, tickCount=6, titlePadding=6),
    )
    y = alt.Y(
        "row:Q",
        title=None,
        scale=alt.Scale(domain=[0, rows], reverse=True, nice=False, zero=False, round=True),
        axis=alt.Axis(
            values=[at + 0.5 for at in range(0, rows, apart)],
            labelExpr="names[floor(datum.value)]",
            labelLimit=400,
            labelOverlap=False,
            ticks=False,
            domain=False,
            grid=False,
            labelPadding=6,
        ),
    )
    legend = alt.Legend(
        orient="top",
        title=None,
        direction="horizontal",
        values=[at for at, _ in _levels(heat)],
        labelExpr="levels[floor(datum.value)]",
        symbolType="square",
        symbolSize=180,
        symbolFillColor="var(--plain)",
        symbolStrokeWidth=0,
    )
    shade = alt.Opacity(
        "shade:Q",
        scale=alt.Scale(domain=[0, _SHADES - 1], range=[_FAINTEST, 1]),
        legend=legend,
    )
    cells = alt.Chart(alt.NamedData("cells")).mark_rect(clip=True, fill="var(--plain)")
    layers = [cells.encode(x=x, x2="x2:Q", y=y, y2="row2:Q", opacity=shade)]
    word = "zero or not finite"
    struck = alt.Chart(alt.NamedData("struck")).mark_rule(
        clip=True, strokeWidth=max(1.0, min(2.5, each / 3))
    )
    colour = alt.Scale(domain=[word], range=["var(--bad)"])
    dashes = alt.Scale(domain=[word], range=[[4, 2]])
    key = None
    if _struck(heat):
        key = alt.Legend(orient="bottom", title=None, symbolType="stroke", symbolSize=300)
    layers.append(
        struck.encode(
            x=x,
            x2="x2:Q",
            y=y,
            stroke=alt.Stroke("word:N", scale=colour, legend=key),
            strokeDash=alt.StrokeDash("word:N", scale=dashes, legend=key),
        )
    )
    frame = alt.Chart(alt.NamedData("chosen")).mark_rect(
        fill="transparent", stroke="var(--ink)", strokeWidth=1.5
    )
    layers.append(frame.encode(y=y, y2="row2:Q"))
    made: dict[str, Any] = alt.layer(*layers).properties(width=WIDTH, height=each * rows).to_dict()
    made["params"] = [
        {"name": "low", "value": heat.start},
        {"name": "high", "value": heat.edges[-1] if heat.edges else heat.start + 1},
        {"name": "names", "value": [shortened(name, _NAME_LENGTH) for name, _ in heat.rows]},
        {"name": "levels", "value": _said(_levels(heat))},
    ]
    made["config"] = STYLE | {
        "view": {"stroke": "var(--line)"},
        "axisLeft": {"labelFontSize": 11},
    }
    made["datasets"] = {"cells": [], "struck": [], "chosen": []}
    return made


def shades(heat: HeatMap) -> list[str]:
    """For each row one letter for each cell: ``a`` to ``l``, ``x`` if struck through, or blank."""
    low, high = _span(heat)
    return ["".join(_letter(heat, value, low, high) for value in row) for _, row in heat.rows]


def _cells(heat: HeatMap) -> dict[str, list[dict[str, Any]]]:
    edges = [heat.start, *heat.edges]
    cells, struck = [], []
    for row, letters in enumerate(shades(heat)):
        for letter, begin, end in _runs(letters):
            place = {"x": edges[begin], "x2": edges[end]}
            if letter == _STRUCK:
                struck.append(place | {"row": row + 0.5, "word": "zero or not finite"})
            elif letter != _BLANK:
                shade = _LETTERS.index(letter)
                cells.append(place | {"row": row, "row2": row + 1, "shade": shade})
    return {"cells": cells, "struck": struck, "chosen": []}


def _runs(letters: str) -> Iterator[tuple[str, int, int]]:
    """Stretches of one letter, with the place that each begins at and the one after its end."""
    begin = 0
    for at in range(1, len(letters) + 1):
        if at == len(letters) or letters[at] != letters[begin]:
            yield letters[begin], begin, at
            begin = at


def _span(heat: HeatMap) -> tuple[float, float]:
    """The values, or their powers of ten, at the two ends of the shades."""
    if heat.percent:
        return 0.0, 1.0
    seen = [value for _, row in heat.rows for value in row if _shaded(heat, value)]
    if not seen:
        return (-1.0, 0.0) if heat.logarithmic else (0.0, 1.0)
    if not heat.logarithmic:
        return min(seen), max(max(seen), min(seen) + 1e-12)
    low = math.floor(math.log10(min(seen)))
    return float(low), float(max(low + 1, math.ceil(math.log10(max(seen)))))


def _shaded(heat: HeatMap, value: float) -> bool:
    return math.isfinite(value) and (value > 0 or not heat.logarithmic)


def _struck(heat: HeatMap) -> bool:
    return any(
        not math.isnan(value) and not _shaded(heat, value) for _, row in heat.rows for value in row
    )


def _letter(heat: HeatMap, value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return _BLANK
    if not _shaded(heat, value):
        return _STRUCK
    at = math.log10(value) if heat.logarithmic else value
    return _LETTERS[min(_SHADES - 1, max(0, int((at - low) / (high - low) * _SHADES)))]


def _levels(heat: HeatMap) -> list[tuple[float, str]]:
    """The shades in the legend, from 0 to the last, and the round number each stands for."""
    low, high = _span(heat)
    places = [low + (high - low) * part / _IN_LEGEND for part in range(_IN_LEGEND + 1)]
    if heat.logarithmic:
        places = sorted({float(round(at)) for at in places})
    made = []
    for at in places:
        value = 10**at if heat.logarithmic else at
        text = percent(value) if heat.percent else number(float(f"{value:.1g}"))
        made.append(((_SHADES - 1) * (at - low) / (high - low), text))
    return made


def _said(levels: list[tuple[float, str]]) -> list[str]:
    """The texts where an expression finds them: at the whole part of their shade."""
    said = [""] * _SHADES
    for shade, text in levels:
        said[math.floor(shade)] = text
    return said
