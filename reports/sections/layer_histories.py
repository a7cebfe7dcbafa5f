"""How single layers went over time, few enough numbers for a page: of profiles and of runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from gradscope.history import ParameterHistory, SiteHistory
from gradscope.records import SiteProfile
from gradscope.reports.nodes import Histories, History, Quantity
from gradscope.reports.sections.bands import unit_signal
from gradscope.reports.wording import positions_shown, rounded

__all__ = ["profile_histories", "run_histories"]

_NUMBERS = 120_000
"""Numbers of all layers together; beyond them layers that nothing leads to go, then times."""

_BACKWARD = Quantity("backward signal", logarithmic=True)
_FORWARD = Quantity("forward signal", logarithmic=True)
_VARIATION = Quantity("variation across samples", logarithmic=True)


def profile_histories(
    sites: Sequence[SiteProfile],
    later: Sequence[SiteProfile],
    same: Mapping[str, str],
    labels: Collection[str],
) -> Histories | None:
    """Of the sites of a profile, over its steps.

    Args:
        sites: before a repair.
        later: after it; empty where there is none.
        same: for a site's name that after the repair.
        labels: names that the charts lead to; they are kept before all others.

    Returns:
        None where there are fewer than two steps.
    """
    after = {site.name: site for site in later}
    before_of = {name: label for label, name in same.items()}
    rows: list[tuple[str, SiteProfile | None, SiteProfile | None]] = [
        (site.name, site, after.get(same.get(site.name, ""))) for site in sites
    ]
    rows += [(site.name, None, site) for site in later if site.name not in before_of]
    steps = max((len(site.backward_rms) for site in (*sites, *later)), default=0)
    quantities: list[Quantity] = [_BACKWARD, _FORWARD, _VARIATION]
    if later:
        quantities = [
            Quantity(f"{each.name}, {when}", each.logarithmic)
            for each in quantities
            for when in ("before", "after")
        ]
    if steps < 2:
        return None
    if len(rows) * len(quantities) * steps > _NUMBERS:
        rows = [row for row in rows if row[0] in labels]
    layers = []
    for name, one, other in rows:
        pairs = zip(_of_site(one), _of_site(other), strict=True)
        series = [each for pair in pairs for each in (pair if later else pair[:1])]
        layers.append(History(name, tuple(_padded(each, steps) for each in series)))
    return _thinned("step of the profile", tuple(map(float, range(steps))), quantities, layers)


def run_histories(
    sampled: Sequence[int], sites: Sequence[SiteHistory], parameters: Sequence[ParameterHistory]
) -> Histories | None:
    """Of the layers and parameters of a run that are drawn, over its samples."""
    kinds = [
        (_BACKWARD, {site.name: site.backward_rms for site in sites}),
        (_FORWARD, {site.name: site.forward_rms for site in sites}),
        (Quantity("dead units", percent=True), {site.name: site.dead for site in sites}),
        (Quantity("saturated units", percent=True), {site.name: site.saturated for site in sites}),
        (
            Quantity("update over weight", logarithmic=True),
            {each.name: each.update_ratio for each in parameters},
        ),
    ]
    kinds = [(quantity, series) for quantity, series in kinds if any(series.values())]
    if len(sampled) < 2 or not kinds:
        return None
    layers = [
        History(name, tuple(series.get(name, ()) for _, series in kinds))
        for name in dict.fromkeys([*(site.name for site in sites), *(p.name for p in parameters)])
    ]
    quantities = [quantity for quantity, _ in kinds]
    return _thinned("step", tuple(map(float, sampled)), quantities, layers)


def _of_site(site: SiteProfile | None) -> tuple[tuple[float, ...], ...]:
    if site is None:
        return ((),) * 3
    return unit_signal(site), site.forward_rms, site.variation


def _padded(series: tuple[float, ...], steps: int) -> tuple[float, ...]:
    return (*series, *(math.nan,) * (steps - len(series))) if series else ()


def _thinned(
    x_title: str,
    times: tuple[float, ...],
    quantities: Sequence[Quantity],
    layers: Sequence[History],
) -> Histories:
    numbers = sum(bool(each) for layer in layers for each in layer.series)
    most = max(2, _NUMBERS // max(1, numbers))
    kept = positions_shown(len(times), most)
    return Histories(
        x_title,
        tuple(times[at] for at in kept),
        tuple(quantities),
        tuple(
            History(
                layer.name,
                tuple(
                    tuple(rounded(each[at]) for at in kept) if each else () for each in layer.series
                ),
            )
            for layer in layers
        ),
    )
