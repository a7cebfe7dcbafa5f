"""The backward signal over depth, as several rules read it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from scipy.stats import theilslopes

from gradscope.records import Measure, Profile, Role, SiteProfile, Source

__all__ = [
    "backward_signal",
    "backward_sites",
    "first_over_last",
    "gain_per_site",
    "ratio_evidence",
    "typical",
]


def backward_sites(profile: Profile) -> list[SiteProfile]:
    """The sites, in order of depth, between which the backward signal is compared.

    The activations on the trunk; where there are fewer than two, those of the branches (in most
    transformers all of them lie in residual branches), then layers in their place. A branch whose
    gain starts at zero is not compared with the trunk. Sites that no gradient reached at any step
    (frozen or detached parts) and the model's own output are left out.
    """
    reached = [
        site
        for site in profile.sites
        if not site.is_output and not all(math.isnan(value) for value in site.backward_rms)
    ]
    activations = [site for site in reached if site.role is Role.ACTIVATION]
    layers = [site for site in reached if site.role not in (Role.ATTENTION, Role.GATE)]
    branches = [site for site in activations if site.branch]
    for candidates in (_trunk(activations), branches, activations, _trunk(layers), layers):
        if len(candidates) > 1:
            return sorted(candidates, key=lambda site: (site.depth, site.index))
    return []


def _trunk(sites: Iterable[SiteProfile]) -> list[SiteProfile]:
    """Those that every gradient on its way to the input passes."""
    return [site for site in sites if not site.branch]


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
