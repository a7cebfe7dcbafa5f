"""Charts as inline SVG: plain data in, an SVG string out, drawn without a browser or network.

Colours are CSS variables of the page that holds the SVG, so that one drawing is legible in light
and in dark. Each series differs by its dash and its point's shape as well as by its colour.
"""

from __future__ import annotations

import math
import re
from html import escape
from typing import Any

from gradscope.reports.nodes import Chart, ChartKind, Line, Tone

__all__ = ["draw"]

_WIDTH = 330
_HEIGHT = 190
_COLOURS = {
    Tone.PLAIN: "var(--plain)",
    Tone.GOOD: "var(--good)",
    Tone.WARN: "var(--warn)",
    Tone.BAD: "var(--bad)",
    Tone.MUTED: "var(--muted)",
}
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross")
_DASHES = ([1, 0], [7, 3], [2, 2], [6, 2, 2, 2], [1, 3])
_LEGEND_HALF = 20
"""Names of at most this many characters stand two abreast in the legend."""
_POINTS_MARKED = 40
"""Lines of more points than this are drawn without marking each."""


def draw(chart: Chart, identity: str) -> str:
    """The chart as one ``<svg>`` element.

    Args:
        chart: what to draw.
        identity: unique in the page; SVGs in one page share their ids otherwise.
    """
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(_specification(chart))
    svg = re.sub(r'(id="|url\(#)clip', rf"\g<1>{identity}-clip", svg)
    # Inside the drawing nothing is left to announce: the label says all of it, once.
    svg = re.sub(r' (role|aria-[a-z]+)="[^"]*"', "", svg)
    label = escape(f"{chart.title}. {chart.summary}")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _specification(chart: Chart) -> dict[str, Any]:
    import altair as alt

    names = [line.name for line in chart.lines]
    colours = [_COLOURS[line.tone] for line in chart.lines]
    shapes = [_SHAPES[index % len(_SHAPES)] for index in range(len(names))]
    dashes = [_DASHES[index % len(_DASHES)] for index in range(len(names))]
    abreast = 2 if max(map(len, names), default=0) <= _LEGEND_HALF else 1
    legend = alt.Legend(orient="top", title=None, columns=abreast) if len(names) > 1 else None
    bars = chart.kind is ChartKind.COLUMNS
    places = max((len(line.points) for line in chart.lines), default=1)
    marked = bars or places <= _POINTS_MARKED
    colour = alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
    shape = alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    # Where no points are drawn, the legend shows the lines themselves.
    dash = alt.StrokeDash(
        "series:N",
        scale=alt.Scale(domain=names, range=dashes),
        legend=None if marked else legend,
    )
    breadth = max(1.0, 0.7 * _WIDTH / max(1, places * len(names)))
    margin = 4 + breadth * len(names) / 2 if bars else 6
    x = alt.X(
        "x:Q",
        title=chart.x_title,
        scale=alt.Scale(nice=False, zero=False, padding=margin),
        axis=alt.Axis(tickMinStep=1, format="d", grid=False, tickCount=6),
    )
    y = _y_axis(chart)
    layers: list[Any] = []
    if bars:
        for index, line in enumerate(chart.lines):
            offset = (index - (len(names) - 1) / 2) * breadth
            one = alt.Chart(alt.Data(values=_rows((line,))))
            one = one.mark_bar(size=breadth, xOffset=offset)
            layers.append(one.encode(x=x, y=y, color=colour))
    else:
        drawn = alt.Chart(alt.Data(values=_rows(chart.lines)))
        line_mark = drawn.mark_line(strokeWidth=1.8)
        layers.append(line_mark.encode(x=x, y=y, color=colour, strokeDash=dash))
        if marked:
            points = drawn.mark_point(filled=True, size=22, opacity=1)
            layers.append(points.encode(x=x, y=y, color=colour, shape=shape))
        missing = [{"x": at, "series": line.name} for line in chart.lines for at in line.missing]
        if missing:
            crosses = alt.Chart(alt.Data(values=missing))
            crosses = crosses.mark_text(text="×", fontSize=13, fontWeight="bold")
            layers.append(crosses.encode(x=x, y=alt.value(_HEIGHT - 5), color=colour))
    specification: dict[str, Any] = (
        alt.layer(*layers)
        .properties(width=_WIDTH, height=_HEIGHT, background="transparent")
        .configure(font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="var(--ink)",
            titleColor="var(--muted)",
            gridColor="var(--line)",
            domainColor="var(--line)",
            tickColor="var(--line)",
            labelFontSize=11,
            titleFontSize=11,
            titleFontWeight="normal",
        )
        .configure_legend(
            labelColor="var(--ink)",
            labelFontSize=11,
            labelLimit=_WIDTH,
            columnPadding=14,
            symbolStrokeWidth=0 if marked else 1.8,
            **({} if marked else {"symbolType": "stroke", "symbolSize": 400}),
        )
        .to_dict()
    )
    return specification


def _y_axis(chart: Chart) -> Any:
    import altair as alt

    values = [value for line in chart.lines for _, value in line.points]
    if chart.logarithmic:
        low = math.floor(math.log10(min(values)))
        high = max(low + 1, math.ceil(math.log10(max(values))))
        step = math.ceil((high - low) / 6)
        ticks = [float(f"1e{power}") for power in range(low, high + 1, step)]
        return alt.Y(
            "y:Q",
            title=None,
            scale=alt.Scale(type="log", domain=[float(f"1e{low}"), float(f"1e{high}")], nice=False),
            axis=alt.Axis(values=ticks, labelExpr="replace(format(datum.value, '~e'), '+', '')"),
        )
    if chart.percent:
        return alt.Y(
            "y:Q",
            title=None,
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(format=".0%", tickCount=5),
        )
    return alt.Y("y:Q", title=None, axis=alt.Axis(format="~g", tickCount=5))


def _rows(lines: tuple[Line, ...]) -> list[dict[str, Any]]:
    return [{"x": x, "y": y, "series": line.name} for line in lines for x, y in line.points]
