"""Draws the pictures of docs/concepts from measured numbers, and prints those numbers.

    python docs/pictures.py

``picture_numbers.py`` measures them. A picture has a white ground of its own, so that it is legible
on light and on dark pages.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picture_numbers import Row, numbers

DOCS = Path(__file__).parent
FOLDER = DOCS / "concepts"
COLOURS = ("#0b62a8", "#b3420a", "#1d7a46", "#6f42a5")
DASHES = ([1, 0], [7, 3], [2, 2], [8, 3, 2, 3])
WIDTH, HEIGHT = 460, 250


def main() -> int:
    for name, rows in numbers().items():
        (FOLDER / f"{name}.svg").write_text(DRAWN[name](rows), encoding="utf-8")
        print(f"\n{name}")
        for row in rows:
            print("  " + "  ".join(f"{key} {_short(value)}" for key, value in row.items()))
    return 0


def _draw_signals(rows: Sequence[Row]) -> str:
    return _lines(
        rows,
        x="layer:O",
        y="signal:Q",
        colour="network",
        titles=("activation, from the input", "backward signal, RMS per sample"),
        logarithmic=True,
    )


def _draw_norms(rows: Sequence[Row]) -> str:
    return _panels(
        rows,
        panel="network",
        x=("layer:O", "layer, from the input"),
        y=("share:Q", "share of the last layer's"),
        colour="measure",
        points=True,
    )


def _draw_variations(rows: Sequence[Row]) -> str:
    return _lines(
        rows,
        x="layer:O",
        y="variation:Q",
        colour="network",
        titles=("activation, from the input", "variation across samples"),
        logarithmic=True,
        limit=1e-3,
    )


def _draw_bias(rows: Sequence[Row]) -> str:
    return _lines(
        rows,
        x="layers:O",
        y="cosine:Q",
        colour="k",
        titles=("hidden layers", "cosine to the true gradient, first layer"),
    )


def _draw_derivatives(rows: Sequence[Row]) -> str:
    return _panels(
        rows,
        panel="of",
        x=("x:Q", "input of the activation"),
        y=("slope:Q", "derivative in the backward pass"),
        colour="derivative",
    )


def _draw_dead_unit(rows: Sequence[Row]) -> str:
    import altair as alt

    names = list(dict.fromkeys(row["backward"] for row in rows))
    chart = (
        alt.Chart(alt.Data(values=list(rows)), width=WIDTH, height=HEIGHT - 40)
        .mark_bar()
        .encode(
            x=alt.X("unit:O", title="unit (1 and 2 are dead)", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("backward:N", sort=names),
            y=alt.Y("gradient:Q", title="size of the bias's gradient"),
            color=_colour("backward", names),
        )
    )
    return _svg(chart)


def _draw_trials(rows: Sequence[Row]) -> str:
    import altair as alt

    arms = list(dict.fromkeys(row["arm"] for row in rows))
    base = alt.Chart(alt.Data(values=list(rows)), width=WIDTH, height=HEIGHT).encode(
        x=alt.X("arm:N", sort=arms, title=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("accuracy:Q", title="test accuracy", scale=alt.Scale(domain=[0, 1])),
        detail="seed:N",
    )
    lines = base.mark_line(color="#707070", strokeWidth=1.2)
    points = base.mark_point(size=70, filled=True, opacity=1).encode(
        color=_colour("arm", arms, None)
    )
    return _svg(lines + points)


def _panels(
    rows: Sequence[Row],
    *,
    panel: str,
    x: tuple[str, str],
    y: tuple[str, str],
    colour: str,
    points: bool = False,
) -> str:
    """Two drawings side by side, each with a legend of its own."""
    import altair as alt

    drawn = []
    for title in dict.fromkeys(row[panel] for row in rows):
        own = _rounded([row for row in rows if row[panel] == title])
        names = list(dict.fromkeys(row[colour] for row in own))
        drawn.append(
            alt.Chart(alt.Data(values=own), title=title, width=WIDTH // 2, height=HEIGHT - 60)
            .mark_line(point=points and alt.OverlayMarkDef(size=45), strokeWidth=2.5)
            .encode(
                x=alt.X(x[0], title=x[1], axis=alt.Axis(labelAngle=0)),
                y=alt.Y(y[0], title=y[1]),
                color=_colour(colour, names, columns=1),
                strokeDash=_dash(colour, names),
            )
        )
    return _svg(alt.hconcat(*drawn).resolve_scale(color="independent", strokeDash="independent"))


def _lines(
    rows: Sequence[Row],
    *,
    x: str,
    y: str,
    colour: str,
    titles: tuple[str, str],
    logarithmic: bool = False,
    limit: float | None = None,
) -> str:
    import altair as alt

    names = list(dict.fromkeys(row[colour] for row in rows))
    scale = alt.Scale(type="log") if logarithmic else alt.Scale(zero=True)
    chart: Any = (
        alt.Chart(alt.Data(values=_rounded(rows)), width=WIDTH, height=HEIGHT)
        .mark_line(point=alt.OverlayMarkDef(size=45), strokeWidth=2.5)
        .encode(
            x=alt.X(x, title=titles[0], axis=alt.Axis(labelAngle=0)),
            y=alt.Y(y, title=titles[1], scale=scale, axis=_axis(logarithmic)),
            color=_colour(colour, names),
            strokeDash=_dash(colour, names),
        )
    )
    if limit is not None:
        line = alt.Chart(alt.Data(values=[{"limit": limit}]))
        chart += line.mark_rule(color="#444", strokeDash=[4, 4]).encode(y="limit:Q")
        chart += line.mark_text(align="left", dy=-7, x=6, color="#444", fontSize=12).encode(
            y="limit:Q", text=alt.value(f"limit of GS204, {limit:g}")
        )
    return _svg(chart)


def _rounded(rows: Sequence[Row]) -> list[Row]:
    """With three digits, which do not depend on the machine."""
    return [
        {key: float(f"{it:.3g}") if isinstance(it, float) else it for key, it in row.items()}
        for row in rows
    ]


def _axis(logarithmic: bool) -> Any:
    import altair as alt

    if not logarithmic:
        return alt.Axis(format=".1f")
    return alt.Axis(format=".0e", values=[10.0**power for power in range(-9, 4)])


def _colour(field: str, names: Sequence[str], legend: Any = "top", columns: int = 2) -> Any:
    import altair as alt

    return alt.Color(
        f"{field}:N",
        scale=alt.Scale(domain=list(names), range=list(COLOURS[: len(names)])),
        legend=legend
        and alt.Legend(orient=legend, title=None, labelLimit=0, columns=columns, columnPadding=24),
    )


def _dash(field: str, names: Sequence[str]) -> Any:
    import altair as alt

    return alt.StrokeDash(
        f"{field}:N", scale=alt.Scale(domain=list(names), range=list(DASHES[: len(names)]))
    )


def _svg(chart: Any) -> str:
    import vl_convert

    specification = (
        chart.configure(background="#ffffff", padding=12, font="sans-serif")
        .configure_axis(
            labelColor="#222",
            titleColor="#222",
            gridColor="#e2e2e2",
            labelFontSize=12,
            titleFontSize=13,
        )
        .configure_legend(labelColor="#222", labelFontSize=12, symbolStrokeWidth=2.5)
        .configure_title(color="#222")
    )
    svg: str = vl_convert.vegalite_to_svg(specification.to_dict())
    return svg.rstrip() + "\n"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and math.isfinite(value) else str(value)


DRAWN = {
    "backward-signal": _draw_signals,
    "norm-against-signal": _draw_norms,
    "forward-collapse": _draw_variations,
    "derivatives": _draw_derivatives,
    "dead-unit": _draw_dead_unit,
    "bias": _draw_bias,
    "matched-trials": _draw_trials,
}

if __name__ == "__main__":
    sys.exit(main())
