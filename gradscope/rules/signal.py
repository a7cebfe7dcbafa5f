"""Signals over depth, forward and backward, as several rules read them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence

from scipy.stats import theilslopes

from gradscope.records import Measure, Profile, Role, SiteProfile, Source

__all__ = [
    "backward_signal",
    "backward_sites",
    "finite_median",
    "first_over_last",
    "gain_per_site",
    "ratio_evidence",
    "told",
    "trunk",
    "typical",
]


def trunk(profile: Profile) -> list[SiteProfile]:
    """The sites that nothing leads around, in order of depth, but for the model's own output.

    Gates serve a larger activation, and what attention returns is on its way into a layer: both
    are left out.
    """
    return _by_depth(
        site
        for site in profile.sites
        if not (site.branch or site.is_output or site.role in (Role.ATTENTION, Role.GATE))
    )


def backward_sites(profile: Profile) -> list[SiteProfile]:
    """The sites, in order of depth, between which the backward signal is compared.

    The activations on the trunk; where there are fewer than two, those of the branches (in most
    transformers all of them lie in residual branches), then layers in their place. A branch whose
    gain starts at zero is not compared with the trunk. Of several at one depth, such as the experts
    of a mixture, the one that gets most stands for them. Sites that no gradient reached at any
    step (frozen or detached parts) and the model's own output are left out.
    """
    reached = [
        site
        for site in profile.sites
        if not site.is_output and not all(math.isnan(value) for value in site.backward_rms)
    ]
    activations = [site for site in reached if site.role is Role.ACTIVATION]
    layers = [site for site in reached if site.role not in (Role.ATTENTION, Role.GATE)]
    branches = [site for site in activations if site.branch]
    for candidates in (_passed(activations), branches, activations, _passed(layers), layers):
        stages = [
            max(stage, key=lambda site: (math.isfinite(typical(site)), typical(site)))
            for _, stage in itertools.groupby(_by_depth(candidates), lambda site: site.depth)
        ]
        if len(stages) > 1:
            return stages
    return []


def _passed(sites: Iterable[SiteProfile]) -> list[SiteProfile]:
    """Those that every gradient on its way to the input passes."""
    return [site for site in sites if not site.branch]


def _by_depth(sites: Iterable[SiteProfile]) -> list[SiteProfile]:
    return sorted(sites, key=lambda site: (site.depth, site.index))


def backward_signal(site: SiteProfile) -> list[float]:
    """Per step, the backward signal of a unit: RMS per element times the root of its positions.

    Pooling hands a unit's gradient to some of its positions or spreads it over all; summing the
    squares over positions keeps either from looking like decay over depth.
    """
    positions = math.prod(site.shape[1:]) / site.units
    return [value * math.sqrt(positions) for value in site.backward_rms]


def finite_median(series: Iterable[float]) -> float:
    """NaN where no value is finite."""
    finite = [value for value in series if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan


def typical(site: SiteProfile) -> float:
    """Median over steps of the backward signal; NaN where no step has a finite one."""
    return finite_median(backward_signal(site))


def first_over_last(sites: Sequence[SiteProfile]) -> list[float]:
    """Per step the backward signal at the first site over that at the last.

    NaN for a step that does not tell: nothing at all arrives at one of them, as for a hinge loss of
    zero or behind a cut, which is another fault than decay.
    """
    return [
        near / far if 0 < near < math.inf and 0 < far < math.inf else math.nan
        for near, far in zip(backward_signal(sites[0]), backward_signal(sites[-1]), strict=True)
    ]


def told(ratios: Iterable[float]) -> list[float]:
    """Those of the steps that tell."""
    return [ratio for ratio in ratios if not math.isnan(ratio)]


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
