"""The signal picture: what passes forward and backward through the sites, before and after.

It shows the activations, and the model's output, in execution order: layers of weights between
them stand at another scale and would turn each line into a saw. Where a model has fewer than two
activations, all its sites are shown. Each number is the median over the steps; the backward signal
is that of a unit, as the rules compare it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gradscope.records import Profile, Report, Role, SiteProfile
from gradscope.reports.nodes import (
    Band,
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
from gradscope.reports.sections.bands import (
    backward_band,
    forward_band,
    unit_signal,
    variation_band,
)
from gradscope.reports.sections.layer_histories import profile_histories
from gradscope.reports.wording import among, count, middle, number, percent, positions_shown

__all__ = [
    "BAR_DECADES",
    "drawable",
    "series",
    "signal",
    "sites_shown",
]

_POINTS = 200
"""Points drawn per line; more are binned, each bin keeping its least and its greatest value."""
_EXTREME = 1e300
"""What is not between this and its inverse is not drawn: powers of ten around it overflow."""
_CROSSES = 30
"""Sites marked as not drawable, at most."""
BAR_DECADES = 3.0
"""A bar spans at least this many powers of ten, so that a healthy model's bars look alike."""

Point = tuple[float, float, str]
"""x, y, and what stands there."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One site's numbers, medians over the steps; ``label`` names it by its name before."""

    name: str
    label: str
    position: int
    forward: float
    variation: float
    backward: float
    dead: float | None
    saturated: float | None

    @property
    def idle(self) -> tuple[float | None, str]:
        """Which share of its units passes no gradient on, and what these are called."""
        if self.dead is not None:
            return self.dead, "dead"
        return self.saturated, "saturated"


def signal(report: Report) -> tuple[Block, ...]:
    """One figure: backward and forward signal, variation, dead and saturated units by site."""
    before = report.profile
    after = report.verdict.profile if report.verdict is not None else None
    if before is None or not before.sites:
        return ()
    shown, limits = sites_shown(before), report.limits
    later = () if after is None else sites_shown(after)
    same = _same_sites(shown, later)
    readings = [_readings(shown, {})]
    if after is not None:
        readings.append(_readings(later, {name: label for label, name in same.items()}))
    charts = (
        _chart(
            "Backward signal (RMS of dL/d output, per unit)",
            readings,
            lambda site: site.backward,
            backward_band(before, limits, shown),
        ),
        _chart(
            "Forward signal (RMS of the output)",
            readings,
            lambda site: site.forward,
            forward_band(before, limits),
        ),
        _chart(
            "Variation across samples (std / RMS)",
            readings,
            lambda site: site.variation,
            variation_band(before, limits),
        ),
        _idle("Dead units", readings, lambda site: site.dead),
        _idle("Saturated units", readings, lambda site: site.saturated),
    )
    drawn = tuple(chart for chart in charts if chart is not None)
    labels = {label for chart in drawn for line in chart.lines for label in line.labels}
    histories = profile_histories(shown, later, same, labels)
    return (Figure(drawn, _table(readings, same, before), histories=histories),)


def sites_shown(profile: Profile) -> Sequence[SiteProfile]:
    """The activations and the model's output; all sites where there are fewer than two."""
    if len(profile.activations) < 2:
        return profile.sites
    return [site for site in profile.sites if site.role is Role.ACTIVATION or site.is_output]


def _readings(sites: Sequence[SiteProfile], labels: dict[str, str]) -> list[_Reading]:
    return [
        _Reading(
            name=site.name,
            label=labels.get(site.name, site.name),
            position=position,
            forward=middle(site.forward_rms),
            variation=middle(site.variation),
            backward=middle(unit_signal(site)),
            dead=site.dead,
            saturated=site.saturated,
        )
        for position, site in enumerate(sites, start=1)
    ]


def _same_sites(sites: Sequence[SiteProfile], later: Sequence[SiteProfile]) -> dict[str, str]:
    """For a site's name that after the repair; one that was wrapped has its name as a prefix."""
    names = [site.name for site in later]
    known = set(names)
    found = {}
    for site in sites:
        if site.name in known:
            found[site.name] = site.name
            continue
        wrapped = [name for name in names if name.startswith(f"{site.name}.")]
        if len(wrapped) == 1:
            found[site.name] = wrapped[0]
    return found


def drawable(value: float) -> bool:
    """Whether a logarithmic axis can show it."""
    return 1 / _EXTREME < value < _EXTREME


_LABELS = (("before", Tone.BAD), ("after", Tone.GOOD))


def _label(index: int, lines: int) -> tuple[str, Tone]:
    """Before and after; a profile that stands alone is neither good nor bad."""
    return _LABELS[index] if lines > 1 else ("measured", Tone.PLAIN)


def _chart(
    title: str,
    readings: list[list[_Reading]],
    pick: Callable[[_Reading], float],
    band: Band | None,
) -> Chart | None:
    lines = []
    said = []
    for index, sites in enumerate(readings):
        name, tone = _label(index, len(readings))
        points = [(float(site.position), pick(site), site.label) for site in sites]
        lines.append(series(name, tone, points))
        drawn = [y for _, y, _ in points if drawable(y)]
        if not drawn:
            said.append(f"{name}: nothing to draw at any of {count(len(points), 'site')}")
            continue
        missing = len(points) - len(drawn)
        said.append(
            f"{name}: {number(drawn[0])} at the first site, {number(drawn[-1])} at the last"
            + (f", zero or not finite at {missing:,}" if missing else "")
            + _outside(drawn, band)
        )
    if not any(line.points for line in lines):
        return None
    return Chart(
        ChartKind.LINES,
        title,
        f"{title} over depth, log scale; {'; '.join(said)}."
        + (f" {band.name[:1].upper()}{band.name[1:]}." if band else ""),
        "site, input to output"
        + (" (× zero or not finite)" if any(line.missing for line in lines) else ""),
        tuple(lines),
        logarithmic=True,
        band=band,
    )


def _outside(drawn: Sequence[float], band: Band | None) -> str:
    if band is None:
        return ""
    below = sum(value < band.low for value in drawn)
    above = sum(value > band.high for value in drawn)
    said = [f"{below:,} below the healthy band"] if below else []
    said += [f"{above:,} above it" if below else f"{above:,} above the healthy band"] * bool(above)
    return "".join(f", {each}" for each in said) or ", all in the healthy band"


def series(name: str, tone: Tone, points: Iterable[Point]) -> Line:
    """A line of a chart with a logarithmic axis: what of its points can be drawn, thinned."""
    points = list(points)
    missing = tuple(x for x, y, _ in points if not drawable(y))
    return _line(name, tone, [point for point in points if drawable(point[1])], _few(missing))


def _line(name: str, tone: Tone, points: Sequence[Point], missing: tuple[float, ...] = ()) -> Line:
    kept = _binned(points)
    return Line(
        name, tone, tuple((x, y) for x, y, _ in kept), missing, tuple(label for *_, label in kept)
    )


def _few(missing: tuple[float, ...]) -> tuple[float, ...]:
    return missing[:: math.ceil(len(missing) / _CROSSES) or 1]


def _binned(points: Sequence[Point]) -> Sequence[Point]:
    if len(points) <= _POINTS:
        return points
    width = math.ceil(len(points) / (_POINTS // 2))
    kept: list[Point] = []
    for start in range(0, len(points), width):
        part = points[start : start + width]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _idle(
    title: str, readings: list[list[_Reading]], pick: Callable[[_Reading], float | None]
) -> Chart | None:
    """Shares of dead or saturated units, only where some unit is; sites that have such alone."""
    lines = []
    said = []
    for index, sites in enumerate(readings):
        name, tone = _label(index, len(readings))
        points = [
            (float(site.position), share, site.label)
            for site in sites
            if (share := pick(site)) is not None
        ]
        if not points:
            continue
        lines.append(_line(name, tone, points))
        _, most, where = max(points, key=lambda point: point[1])
        said.append(f"{name}: {percent(most)} ({where})" if most else f"{name}: none")
    if not any(y for line in lines for _, y in line.points):
        return None
    return Chart(
        ChartKind.COLUMNS,
        title,
        f"{title} by site, as a share of the site's units; at most {'; '.join(said)}.",
        "site, input to output",
        tuple(lines),
        percent=True,
    )


def _table(readings: list[list[_Reading]], same: dict[str, str], before: Profile) -> Table:
    first = readings[0]
    later = {site.name: site for site in readings[1]} if len(readings) > 1 else {}
    rows = [first[at] for at in positions_shown(len(first))]
    low, high = _span([site.backward for sites in readings for site in sites])
    idle = any(site.idle[0] for sites in readings for site in sites)
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
            match = later.get(same.get(site.name, ""))
            row.append(
                Cell(number(match.backward), Tone.GOOD, bar(match.backward))
                if match
                else Cell("–", Tone.MUTED, 0.0)
            )
        if idle:
            share, word = site.idle
            row.append(Cell(f"{percent(share)} {word}" if share else "–"))
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


def _span(values: list[float]) -> tuple[float, float]:
    """Powers of ten at the two ends of the bars."""
    logs = [math.log10(value) for value in values if drawable(value)]
    if not logs:
        return 0.0, BAR_DECADES
    high = math.ceil(max(logs))
    return min(math.floor(min(logs)), high - BAR_DECADES), float(high)
