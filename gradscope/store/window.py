"""The newest rows of a run as what a profile says of its sites and parameters, without torch.

``gradscope report`` reads it off a store, the monitor off the training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradscope.records import ParameterProfile, Role, SiteProfile
from gradscope.training import (
    PARAMETER_MEASURES,
    SITE_MEASURES,
    STEP_MEASURES,
    Layout,
    WatchedParameter,
    WatchedSite,
)

__all__ = ["clipping", "parameter_profiles", "site_profiles"]

# Shares of units are told once they rest on as many observations as rules ask for.
_ENOUGH = 1_000_000_000

Columns = Sequence[Sequence[float]]
"""Of each number of a row, its values over the rows: those of the layout."""


def site_profiles(layout: Layout, columns: Columns) -> tuple[SiteProfile, ...]:
    """Series have one value for each row; what a monitor does not measure is NaN, or None."""
    width = len(SITE_MEASURES)
    return tuple(
        _site(at, site, columns[layout.site_column(at, SITE_MEASURES[0]) :][:width])
        for at, site in enumerate(layout.sites)
    )


def parameter_profiles(
    layout: Layout, columns: Columns, nonfinite: Sequence[bool] = ()
) -> tuple[ParameterProfile, ...]:
    """Likewise; ``nonfinite`` tells of each parameter whether its elements are."""
    width = len(PARAMETER_MEASURES)
    return tuple(
        _parameter(
            entry,
            columns[layout.parameter_column(at, PARAMETER_MEASURES[0]) :][:width],
            at < len(nonfinite) and bool(nonfinite[at]),
        )
        for at, entry in enumerate(layout.parameters)
    )


def clipping(columns: Columns) -> tuple[float, ...]:
    """Per row the norm of the gradient after clipping over that before."""
    pairs = (columns[STEP_MEASURES.index(name)] for name in ("used_norm", "gradient_norm"))
    return tuple(_over(used, whole) for used, whole in zip(*pairs, strict=True))


def _site(at: int, site: WatchedSite, columns: Columns) -> SiteProfile:
    forward, backward, dead, always_positive, saturated = columns
    unmeasured = (math.nan,) * len(forward)
    shares = _last(dead), _last(always_positive), _last(saturated)
    return SiteProfile(
        name=site.name,
        role=Role(site.role),
        operator=site.operator,
        index=at,
        shape=site.shape,
        unit_axis=site.unit_axis,
        is_output=site.is_output,
        forward_rms=tuple(forward),
        variation=unmeasured,
        correlation=unmeasured,
        backward_rms=tuple(backward),
        # How many elements were not is not counted: only that there were some.
        forward_nonfinite=tuple(map(int, map(math.isinf, forward))),
        backward_nonfinite=tuple(map(int, map(math.isinf, backward))),
        observations=_ENOUGH if shares[0] is not None or shares[2] is not None else 0,
        dead=shares[0] if site.dead_zone else None,
        always_positive=shares[1] if site.dead_zone else None,
        saturated=shares[2] if site.bounded else None,
        depth=site.depth,
        branch=site.branch,
        joins=site.joins,
        dtype=site.dtype,
    )


def _parameter(entry: WatchedParameter, columns: Columns, nonfinite: bool) -> ParameterProfile:
    gradient, weight, update = columns
    return ParameterProfile(
        name=entry.name,
        shape=entry.shape,
        trainable=entry.trainable,
        reached=entry.reached,
        weight_norm=weight[0] if weight else math.nan,
        nonfinite=int(nonfinite),
        gradient_norm=tuple(None if norm != norm else norm for norm in gradient),
        update_ratio=tuple(_over(*pair) for pair in zip(update, weight, strict=True)),
    )


def _last(series: Sequence[float]) -> float | None:
    """The newest share; None where none was told."""
    return next((value for value in reversed(series) if value == value), None)


def _over(value: float, whole: float) -> float:
    return value / whole if whole > 0 else math.nan
