"""Series as a line of characters of eight heights, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from gradscope.reports.nodes import Chart, Line
from gradscope.reports.sections.signal import BAR_DECADES, drawable
from gradscope.reports.wording import among

__all__ = ["chart_lines", "sparkline"]

_LEVELS = "▁▂▃▄▅▆▇█"
_NOT_DRAWN = "×"
_LEAST_DECADES = 0.5
"""A sparkline on a log scale spans at least this many powers of ten."""


def sparkline(
    steps: Sequence[int],
    values: Sequence[float],
    last: int,
    width: int,
    scale: tuple[float, float] | None = None,
) -> str:
    """A series over steps as characters of eight heights, from step 0 to the last.

    It is on a log scale where nothing is below zero. What was seen holds until the next is seen.

    Args:
        steps: of the values, ascending.
        values: NaN is a gap; what cannot be drawn otherwise is a cross.
        last: the last step.
        width: characters, at most.
        scale: powers of ten of the lowest and the highest character; None for those of the values.
    """
    groups = _grouped(steps, values, last, width)
    low, high = scale or (None, None)
    logarithmic = all(value > 0 for value in values if math.isfinite(value)) or scale is not None
    heights = [_height(group, logarithmic) for group in groups]
    known = [each for each in heights if each is not None and math.isfinite(each)]
    bottom = min(known, default=0.0) if low is None else low
    top = max(known, default=1.0) if high is None else high
    if logarithmic:
        # Noise on a level is not drawn as high as a fall by powers of ten.
        top = max(top, bottom + _LEAST_DECADES)
    drawn = ""
    for each in heights:
        if each is None:
            drawn += " "
        elif not math.isfinite(each):
            drawn += _NOT_DRAWN
        else:
            at = among(each, bottom, top)
            drawn += _LEVELS[min(len(_LEVELS) - 1, int(at * len(_LEVELS)))]
    return drawn


def _grouped(
    steps: Sequence[int], values: Sequence[float], last: int, width: int
) -> list[Sequence[float]]:
    """The values of each character."""
    parts = max(1, min(last + 1, width))
    groups: list[list[float]] = [[] for _ in range(parts)]
    for step, value in zip(steps, values, strict=True):
        groups[min(step, last) * parts // (last + 1)].append(value)
    for before, group in pairwise(groups):
        if not group:
            group += before[-1:]
    return list(groups)


def _height(group: Sequence[float], logarithmic: bool) -> float | None:
    """The mean of what can be drawn; None where nothing is known, infinity where nothing can."""
    known = [value for value in group if not math.isnan(value)]
    if not known:
        return None
    drawn = [value for value in known if (drawable(value) if logarithmic else math.isfinite(value))]
    if not drawn:
        return math.inf
    if logarithmic:
        return sum(map(math.log10, drawn)) / len(drawn)
    return sum(drawn) / len(drawn)


def chart_lines(chart: Chart, width: int) -> list[str]:
    """Each line of a chart in at most ``width`` characters, all to one scale and one x axis.

    Points at whole numbers, few enough, have a character each. A character for several shows
    their mean or, of shares, the largest; a cross where one of them cannot be drawn.
    """
    ends = [x for line in chart.lines for x in (*(x for x, _ in line.points), *line.missing)]
    if not ends:
        return ["" for _ in chart.lines]
    first, last = min(ends), max(ends)
    most = max(len(line.points) + len(line.missing) for line in chart.lines)
    parts = max(1, min(width, most))
    lines = [_binned(line, first, last, parts, chart) for line in chart.lines]
    known = [value for line in lines for value in line if value is not None]
    seen = [value for value in known if math.isfinite(value)]
    low, high = (0.0, 1.0) if chart.percent else (min(seen, default=0.0), max(seen, default=1.0))
    if chart.logarithmic:
        low = min(low, high - BAR_DECADES)
    return ["".join(_character(value, low, high) for value in line) for line in lines]


def _binned(line: Line, first: float, last: float, parts: int, chart: Chart) -> list[float | None]:
    """One value for each character: None where nothing is, infinity where one is not drawn."""

    def at(x: float) -> int:
        return round((x - first) / (last - first) * (parts - 1)) if last > first else 0

    groups: list[list[float]] = [[] for _ in range(parts)]
    for x, y in line.points:
        groups[at(x)].append(math.log10(y) if chart.logarithmic else y)
    heights: list[float | None] = [
        (max(group) if chart.percent else math.fsum(group) / len(group)) if group else None
        for group in groups
    ]
    for x in line.missing:
        heights[at(x)] = math.inf
    return heights


def _character(value: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    if not math.isfinite(value):
        return _NOT_DRAWN
    return _LEVELS[min(len(_LEVELS) - 1, int(among(value, low, high) * len(_LEVELS)))]
