"""Charts of lines and columns as Vega-Lite specifications, made with Altair.

Each series differs by its dash and its point's shape as well as by its colour. Names are data and
never part of an expression. A specification has two parameters, ``low`` and ``high``: the part of
the x axis that is shown; and an empty dataset, ``chosen``: the points to put a ring around.
"""

from __future__ import annotations

import math
import textwrap
from itertools import pairwise
from typing import Any

from gradscope.reports.drawing.heat_map import draw_heat_map
from gradscope.reports.drawing.svg import HEIGHT, STYLE, WIDTH, drawn
from gradscope.reports.nodes import Chart, ChartKind, HeatMap, Line, Quantity, Tone
from gradscope.reports.wording import each_string, shortened, visible

__all__ = ["draw", "history_specification", "specification"]

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
_THINNEST = 0.003
"""Of the x axis: columns that stand for one of thousands of places are still seen."""
_TITLE_LINE = 40
"""Characters of an axis' title that fit in the narrowest drawing."""
_BAND_NAME = 24
"""Characters of a band's name that stand in it; all of it stands below the chart."""
_POWER = "replace(format(datum.value, '~e'), '+', '')"
"""Powers of ten as they are written elsewhere: 1e-9."""


def draw(chart: Chart | HeatMap, identity: str) -> str:
    """The chart as one ``<svg>`` element; ``identity`` is unique in the page."""
    if isinstance(chart, HeatMap):
        return draw_heat_map(chart, identity)
    shown: Chart = each_string(chart, visible)  # a control character ends the library's process
    return drawn(specification(shown), f"{shown.title}. {shown.summary}", identity)


def specification(chart: Chart) -> dict[str, Any]:
    """The chart in Vega-Lite's terms, with its data."""
    import altair as alt

    names = [line.name for line in chart.lines]
    shapes = [_SHAPES[index % len(_SHAPES)] for index in range(len(names))]
    dashes = [_DASHES[index % len(_DASHES)] for index in range(len(names))]
    colours = [_COLOURS[line.tone] for line in chart.lines]
    bars = chart.kind is ChartKind.COLUMNS
    places = sorted({x for line in chart.lines for x, _ in line.points})
    marked = bars or max((len(line.points) for line in chart.lines), default=0) <= _POINTS_MARKED
    abreast = 2 if max(map(len, names), default=0) <= _LEGEND_HALF else 1
    legend = None
    if len(names) > 1:
        legend = alt.Legend(orient="top", title=None, columns=abreast)
        if not marked:
            # Where no points are drawn, the legend shows the lines themselves.
            legend.symbolType, legend.symbolSize = "stroke", 400
        legend.symbolOpacity = 1
        legend.symbolStrokeWidth = 0 if marked else 1.8
    colour = alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
    shape = alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    dash = alt.StrokeDash(
        "series:N",
        scale=alt.Scale(domain=names, range=dashes),
        legend=legend,
    )
    apart = min((b - a for a, b in pairwise(places)), default=1.0)
    x, (low, high) = _x_axis(chart, places, 0.5 * apart if bars else None)
    y, (bottom, top) = _y_axis(chart)
    points = alt.Chart(alt.NamedData("points"))
    layers: list[Any] = []
    datasets: dict[str, list[dict[str, Any]]] = {"chosen": []}
    if chart.band is not None:
        layers += _band(alt, bottom, top)
        at = (max(chart.band.low, bottom), min(chart.band.high, top))
        short = shortened(chart.band.name.partition(":")[0], _BAND_NAME)
        datasets["band"] = [{"name": short, "low": at[0], "high": at[1]}]
    if bars:
        datasets["points"] = _columns(chart.lines, apart)
        bar = points.mark_rect(clip=True, strokeWidth=0)
        layers.append(
            bar.encode(x=_same(x, "left:Q"), x2="right:Q", y=y, y2="zero:Q", color=colour)
        )
    else:
        datasets["points"] = [row for line in chart.lines for row in _rows(line)]
        if any(line.interval for line in chart.lines):
            area = points.transform_filter("isValid(datum.least)")
            area = area.mark_area(clip=True, opacity=0.18, line=False)
            layers.append(area.encode(x=x, y=_same(y, "least:Q"), y2="most:Q", color=colour))
        line_mark = points.mark_line(clip=True, strokeWidth=1.8)
        layers.append(line_mark.encode(x=x, y=y, color=colour, strokeDash=dash))
        if marked:
            dots = points.mark_point(clip=True, filled=True, size=28, opacity=1)
            layers.append(dots.encode(x=x, y=y, color=colour, shape=shape))
        datasets["missing"] = [
            {"x": at, "series": line.name} for line in chart.lines for at in line.missing
        ]
        if datasets["missing"]:
            crosses = alt.Chart(alt.NamedData("missing"))
            crosses = crosses.mark_text(clip=True, text="×", fontSize=14, fontWeight="bold")
            layers.append(crosses.encode(x=x, y=alt.value(HEIGHT - 6), color=colour))
    ring = alt.Chart(alt.NamedData("chosen"))
    ring = ring.mark_point(clip=True, size=160, color="var(--ink)", strokeWidth=2)
    layers.append(ring.encode(x=x, y=y))
    return _finished(alt, layers, datasets, low, high)


def history_specification(quantity: Quantity, x_title: str, low: float, high: float) -> Any:
    """One layer's number over time, without data: a script gives the layer's.

    Its parameters ``bottom``, ``top`` and ``ticks`` are those of the y axis.
    """
    import altair as alt

    x = alt.X(
        "x:Q",
        title=textwrap.wrap(x_title, _TITLE_LINE),
        scale=alt.Scale(domain=[{"expr": "low"}, {"expr": "high"}], nice=False, zero=False),
        axis=_ticks(alt),
    )
    style = _power(alt) if quantity.logarithmic else _linear(alt, quantity.percent)
    style.values = {"expr": "ticks"}
    y = alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(
            type="log" if quantity.logarithmic else "linear",
            domain=[{"expr": "bottom"}, {"expr": "top"}],
            nice=False,
        ),
        axis=style,
    )
    points = alt.Chart(alt.NamedData("points"))
    crosses = alt.Chart(alt.NamedData("missing"))
    crosses = crosses.mark_text(
        clip=True, text="×", fontSize=14, fontWeight="bold", color="var(--bad)"
    )
    layers = [
        points.mark_line(clip=True, strokeWidth=1.8, color="var(--plain)").encode(x=x, y=y),
        crosses.encode(x=x, y=alt.value(HEIGHT - 6)),
    ]
    made = _finished(alt, layers, {"points": [], "missing": []}, low, high)
    ends = (1e-3, 1.0) if quantity.logarithmic else (0.0, 1.0)
    made["params"] += [
        {"name": "bottom", "value": ends[0]},
        {"name": "top", "value": ends[1]},
        {"name": "ticks", "value": []},
    ]
    return made


def _finished(
    alt: Any, layers: list[Any], datasets: dict[str, Any], low: float, high: float
) -> dict[str, Any]:
    whole = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    made: dict[str, Any] = whole.to_dict()
    made["params"] = [{"name": "low", "value": low}, {"name": "high", "value": high}]
    made["datasets"] = datasets
    made["config"] = STYLE
    return made


def _same(channel: Any, field: str) -> Any:
    """The channel of another field."""
    made = channel.copy()
    made.shorthand = field
    return made


def _ticks(alt: Any) -> Any:
    return alt.Axis(tickMinStep=1, format=",d", grid=False, tickCount=6, titlePadding=6)


def _power(alt: Any) -> Any:
    return alt.Axis(labelExpr=_POWER)


def _linear(alt: Any, percent: bool) -> Any:
    return alt.Axis(format=".0%" if percent else "~g", tickCount=5)


def _x_axis(
    chart: Chart, places: list[float], around: float | None
) -> tuple[Any, tuple[float, float]]:
    """The axis, and what it shows: all points and a margin that no point is cut by."""
    import altair as alt

    seen = [*places, *(at for line in chart.lines for at in line.missing)] or [0.0, 1.0]
    low, high = min(seen), max(seen)
    margin = around if around is not None else 0.015 * (high - low) or 0.5
    title = textwrap.wrap(chart.x_title, _TITLE_LINE)
    if chart.band is not None and ":" in chart.band.name:
        title += textwrap.wrap(chart.band.name, _TITLE_LINE, max_lines=3, placeholder=" …")
    axis = alt.X(
        "x:Q",
        title=title,
        scale=alt.Scale(domain=[{"expr": "low"}, {"expr": "high"}], nice=False, zero=False),
        axis=_ticks(alt),
    )
    return axis, (low - margin, high + margin)


def _y_axis(chart: Chart) -> tuple[Any, tuple[float, float]]:
    import altair as alt

    values = [y for line in chart.lines for _, y in line.points]
    values += [y for line in chart.lines for ends in line.interval for y in ends]
    values = [y for y in values if math.isfinite(y) and (y > 0 or not chart.logarithmic)]
    if chart.band is not None:
        # So much of the band that one sees on which side of it the values are.
        reach = 10.0 if chart.logarithmic else 1.0
        values += [min([chart.band.high, *values]), max([chart.band.low, *values])]
        values = [y for y in values if y * reach > 0 or not chart.logarithmic]
    if chart.logarithmic:
        low = math.floor(math.log10(min(values, default=1e-3)))
        high = max(low + 1, math.ceil(math.log10(max(values, default=1.0))))
        step = math.ceil((high - low) / 6)
        ticks = [float(f"1e{power}") for power in range(low, high + 1, step)]
        ends = (float(f"1e{low}"), float(f"1e{high}"))
        style = _power(alt)
        style.values = ticks
        scale = alt.Scale(type="log", domain=list(ends), nice=False)
    elif chart.percent:
        ends = (0.0, 1.0)
        style, scale = _linear(alt, True), alt.Scale(domain=[0, 1])
    else:
        ends = (min([0.0, *values]), max([0.0, *values]))
        ends = ends if ends[1] > ends[0] else (ends[0], ends[0] + 1.0)
        style, scale = _linear(alt, False), alt.Scale(domain=list(ends), nice=True)
    return alt.Y("y:Q", title=None, scale=scale, axis=style), ends


def _band(alt: Any, bottom: float, top: float) -> list[Any]:
    """An area with a dashed edge, and its name in it."""
    band = alt.Chart(alt.NamedData("band"))
    area = band.mark_rect(
        clip=True,
        fill="var(--good)",
        fillOpacity=0.1,
        stroke="var(--good)",
        strokeOpacity=0.6,
        strokeDash=[4, 4],
        strokeWidth=1,
    )
    name = band.mark_text(
        align="left", baseline="bottom", dy=-4, fontSize=11, fontStyle="italic", color="var(--good)"
    )
    return [
        area.encode(y=alt.Y("low:Q", title=None), y2="high:Q"),
        name.encode(y=alt.Y("low:Q", title=None), x=alt.value(6), text="name:N"),
    ]


def _rows(line: Line) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index, (x, y) in enumerate(line.points):
        row: dict[str, Any] = {"x": x, "y": y, "series": line.name}
        if line.labels:
            row["label"] = line.labels[index]
        if line.interval:
            row["least"], row["most"] = line.interval[index]
        rows.append(row)
    return rows


def _columns(lines: tuple[Line, ...], apart: float) -> list[dict[str, Any]]:
    """Columns side by side: of one place they take seven tenths of the room to the next."""
    places = [x for line in lines for x, _ in line.points]
    span = max(places, default=0.0) - min(places, default=0.0)
    breadth = max(0.7 * apart / max(1, len(lines)), _THINNEST * span)
    rows = []
    for index, line in enumerate(lines):
        offset = (index - len(lines) / 2) * breadth
        for row in _rows(line):
            left = row["x"] + offset
            rows.append(row | {"left": left, "right": left + breadth, "zero": 0.0})
    return rows
