"""The backward signal over depth, as several rules read it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import theilslopes

from gradscope.records import Profile, SiteProfile

__all__ = ["backward_signal", "backward_sites", "gain_per_site", "typical"]


def backward_sites(profile: Profile) -> list[SiteProfile]:
    """The sites, in execution order, between which the backward signal is compared.

    The activations; where a model has fewer than two, its layers. Sites that no gradient reached
    at any step (frozen or detached parts) and the model's own output are left out.
    """
    for candidates in (profile.activations, profile.sites):
        sites = [
            site
            for site in candidates
            if not site.is_output and not all(math.isnan(value) for value in site.backward_rms)
        ]
        if len(sites) > 1:
            return sites
    return []


def backward_signal(site: SiteProfile) -> list[float]:
    """Per step, the backward signal of a unit: RMS per element times the root of its positions.

    Pooling hands a unit's gradient to some of its positions or spreads it over all; summing the
    squares over positions keeps either from looking like decay over depth.
    """
    positions = math.prod(site.shape[1:]) / site.units
    return [value * math.sqrt(positions) for value in site.backward_rms]


def typical(site: SiteProfile) -> float:
    """Median over steps of the backward signal; NaN where no step has a finite one."""
    finite = [value for value in backward_signal(site) if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan


def gain_per_site(sites: Sequence[SiteProfile]) -> float:
    """The factor by which the signal changes from one site to the one before it.

    From a Theil-Sen fit of log signal over depth, which a single odd site does not sway; NaN where
    a site has none.
    """
    signals = [typical(site) for site in sites]
    if not all(0 < signal < math.inf for signal in signals):
        return math.nan
    slope = theilslopes([math.log(signal) for signal in signals])[0]
    return math.exp(-slope)
