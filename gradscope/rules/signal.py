"""The backward signal over depth, as several rules read it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import theilslopes

from gradscope.records import Measure, Profile, SiteProfile, Source

__all__ = [
    "backward_signal",
    "backward_sites",
    "first_over_last",
    "gain_per_site",
    "ratio_evidence",
    "typical",
]


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


def first_over_last(sites: Sequence[SiteProfile]) -> list[float]:
    """The backward signal at the first site over that at the last, for the steps that tell.

    A step in which nothing arrives at either end (a hinge loss of zero) says nothing.
    """
    ends = zip(backward_signal(sites[0]), backward_signal(sites[-1]), strict=True)
    return [near / far for near, far in ends if math.isfinite(near) and 0 < far < math.inf]


def ratio_evidence(
    sites: Sequence[SiteProfile], ratio: float, bound: float, source: Source
) -> dict[str, Measure]:
    """The ratio against its limit, and where the signal has one, its gain per site."""
    evidence = {"backward signal, first over last site": Measure(ratio, bound, source)}
    gain = gain_per_site(sites)
    if math.isfinite(gain):
        evidence["gain per site towards the input"] = Measure(gain, None, source)
    return evidence


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
