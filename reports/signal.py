"""The signal picture: what passes forward and backward through the sites, before and after.

It shows the activations, and the model's output, in execution order: layers of weights between
them stand at another scale and would turn each line into a saw. Where a model has fewer than two
activations, all its sites are shown. Each number is the median over the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradscope.records import Profile, Role, SiteProfile
from gradscope.reports.nodes import (
    Block,
    Cell,
    Chart,
    ChartKind,
    Column,
    Figure,
    Line,
    Table,
    Tone,
)
from gradscope.reports.wording import among, count, middle, number, percent

__all__ = ["BAR_DECADES", "drawable", "positions_shown", "series", "signal", "sites_shown"]

_ROWS = 24
"""Sites listed in the table; more are thinned evenly, and all are in the JSON report."""
_POINTS = 200
"""Points drawn per line; more are binned, each bin keeping its least and its greatest value."""
_EXTREME = 1e300
"""What is not between this and its inverse is not drawn: powers of ten around it overflow."""
_CROSSES = 30
"""Sites marked as not drawable, at most."""
BAR_DECADES = 3.0
"""A bar spans at least this many powers of ten, so that a healthy model's bars look alike."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One site's numbers, medians over the steps."""

    name: str
    position: int
    forward: float
    variation: float
    backward: float
    idle: float | None
    idle_word: str


def signal(before: Profile, after: Profile | None) -> tuple[Block, ...]:
    """One figure: backward and forward signal, variation and idle units by site."""
    readings = [_readings(before)]
    if after is not None:
        readings.append(_readings(after))
    if not readings[0]:
        return ()
    charts = [
        _chart("Backward signal (RMS of dL/d output)", readings, lambda site: site.backward),
        _chart("Forward signal (RMS of the output)", readings, lambda site: site.forward),
        _chart("Variation across samples (std / RMS)", readings, lambda site: site.variation),
        _idle(readings),
    ]
    return (Figure(tuple(chart for chart in charts if chart), _table(readings, before)),)


def sites_shown(profile: Profile) -> Sequence[SiteProfile]:
    """The activations and the model's output; all sites where there are fewer than two."""
    if len(profile.activations) < 2:
        return profile.sites
    return [site for site in profile.sites if site.role is Role.ACTIVATION or site.is_output]


def _readings(profile: Profile) -> list[_Reading]:
    return [
        _Reading(
            name=site.name,
            position=position,
            forward=middle(site.forward_rms),
            variation=middle(site.variation),
            backward=middle(site.backward_rms),
            idle=site.dead if site.dead is not None else site.saturated,
            idle_word="dead" if site.dead is not None else "saturated",
        )
        for position, site in enumerate(sites_shown(profile), start=1)
    ]


def drawable(value: float) -> bool:
    """Whether a logarithmic axis can show it."""
    return 1 / _EXTREME < value < _EXTREME


_LABELS = (("before", Tone.BAD), ("after", Tone.GOOD))


def _label(index: int, lines: int) -> tuple[str, Tone]:
    """Before and after; a profile that stands alone is neither good nor bad."""
    return _LABELS[index] if lines > 1 else ("measured", Tone.PLAIN)


def _chart(
    title: str, readings: list[list[_Reading]], pick: Callable[[_Reading], float]
) -> Chart | None:
    lines = []
    said = []
    for index, sites in enumerate(readings):
        name, tone = _label(index, len(readings))
        points = [(float(site.position), pick(site)) for site in sites]
        lines.append(series(name, tone, points))
        drawn = [y for _, y in points if drawable(y)]
        if not drawn:
            said.append(f"{name}: nothing to draw at any of {count(len(points), 'site')}")
            continue
        missing = len(points) - len(drawn)
        said.append(
            f"{name}: {number(drawn[0])} at the first site, {number(drawn[-1])} at the last"
            + (f", zero or not finite at {missing}" if missing else "")
        )
    if not any(line.points for line in lines):
        return None
    return Chart(
        ChartKind.LINES,
        title,
        f"{title} over depth, log scale; {'; '.join(said)}.",
        "site, input to output"
        + (" (× zero or not finite)" if any(line.missing for line in lines) else ""),
        tuple(lines),
        logarithmic=True,
    )


def series(name: str, tone: Tone, points: Sequence[tuple[float, float]]) -> Line:
    """A line of a chart with a logarithmic axis: what of its points can be drawn, thinned."""
    drawn = [point for point in points if drawable(point[1])]
    missing = tuple(x for x, y in points if not drawable(y))
    return Line(name, tone, _binned(drawn), _few(missing))


def _few(missing: tuple[float, ...]) -> tuple[float, ...]:
    return missing[:: math.ceil(len(missing) / _CROSSES) or 1]


def _binned(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    if len(points) <= _POINTS:
        return tuple(points)
    width = math.ceil(len(points) / (_POINTS // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), width):
        part = points[start : start + width]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return tuple(kept)


def _idle(readings: list[list[_Reading]]) -> Chart | None:
    """Shares of dead or saturated units, only where some unit is."""
    if not any(site.idle for sites in readings for site in sites):
        return None
    words = sorted({site.idle_word for sites in readings for site in sites if site.idle})
    lines = []
    for index, sites in enumerate(readings):
        name, tone = _label(index, len(readings))
        points = [(float(site.position), site.idle or 0.0) for site in sites]
        lines.append(Line(name, tone, _binned(points)))
    worst = max(readings[0], key=lambda site: site.idle or 0.0)
    title = f"{' or '.join(words).capitalize()} units"
    return Chart(
        ChartKind.COLUMNS,
        title,
        f"{title} by site, as a share of the site's units; at most "
        f"{percent(worst.idle)} ({worst.name}) before.",
        "site, input to output",
        tuple(lines),
        percent=True,
    )


def _table(readings: list[list[_Reading]], before: Profile) -> Table:
    first = readings[0]
    later = {site.name: site for site in readings[1]} if len(readings) > 1 else {}
    rows = [first[at] for at in positions_shown(len(first))]
    low, high = _span([site.backward for sites in readings for site in sites])
    idle = any(site.idle for sites in readings for site in sites)
    varied = not all(math.isnan(site.variation) for sites in readings for site in sites)

    def bar(value: float) -> float:
        return among(math.log10(value), low, high) if drawable(value) else 0.0

    columns = [
        Column("#", numeric=True),
        Column("site", name=True),
        Column("forward", numeric=True, optional=True),
    ]
    if varied:
        columns.append(Column("variation", numeric=True, optional=True))
    columns.append(Column("backward before" if later else "backward", numeric=True))
    if later:
        columns.append(Column("backward after", numeric=True))
    if idle:
        columns.append(Column("idle units", numeric=True))
    cells = []
    for site in rows:
        row = [
            Cell(str(site.position), Tone.MUTED),
            Cell(site.name),
            Cell(number(site.forward)),
        ]
        if varied:
            row.append(Cell(number(site.variation)))
        row.append(Cell(number(site.backward), bar=bar(site.backward)))
        if later:
            match = _same_site(site.name, later)
            row.append(
                Cell(number(match.backward), Tone.GOOD, bar(match.backward))
                if match
                else Cell("–", Tone.MUTED, 0.0)
            )
        if idle:
            row.append(Cell(f"{percent(site.idle)} {site.idle_word}" if site.idle else "–"))
        cells.append(tuple(row))
    thinned = (
        f" {len(rows)} of {count(len(first), 'site')} shown; all are in the JSON report."
        if len(rows) < len(first)
        else ""
    )
    return Table(
        tuple(columns),
        tuple(cells),
        f"Input to output; medians of {count(before.steps, 'step')}; bars on a log scale from "
        f"{number(10**low)} to {number(10**high)}.{thinned}",
    )


def _same_site(name: str, later: dict[str, _Reading]) -> _Reading | None:
    """The reading after the repair; a site that a repair wrapped has its name as a prefix now."""
    if name in later:
        return later[name]
    wrapped = [reading for other, reading in later.items() if other.startswith(f"{name}.")]
    return wrapped[0] if len(wrapped) == 1 else None


def positions_shown(rows: int, most: int = _ROWS) -> list[int]:
    """Of so many rows at most ``most``, evenly spaced, the first and the last among them."""
    if rows <= most:
        return list(range(rows))
    return [round(row * (rows - 1) / (most - 1)) for row in range(most)]


def _span(values: list[float]) -> tuple[float, float]:
    """Powers of ten at the two ends of the bars."""
    logs = [math.log10(value) for value in values if drawable(value)]
    if not logs:
        return 0.0, BAR_DECADES
    high = math.ceil(max(logs))
    return min(math.floor(min(logs)), high - BAR_DECADES), float(high)
