"""Where signals are healthy: the limits in force of the rules that judge them, as bands of a chart.

Each band is what its rule holds the sites against, and its name says which rule that is. Where the
rule was not run, or has nothing here to compare with, there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from gradscope.records import Profile, Role, SiteProfile
from gradscope.reports.nodes import Band
from gradscope.reports.wording import middle, number, shortened

__all__ = ["backward_band", "forward_band", "judged_last", "unit_signal", "variation_band"]

Limits = Mapping[str, Mapping[str, float]]

_NAME_LENGTH = 24
_LAYERS = (Role.LAYER, Role.NORMALISATION, Role.EMBEDDING)
_ASIDE = (Role.ATTENTION, Role.GATE)


def unit_signal(site: SiteProfile) -> tuple[float, ...]:
    """Per step the backward signal of a unit: RMS per element times the root of its positions.

    So do the rules on the backward signal measure it: pooling is no decay then.
    """
    positions = math.prod(site.shape[1:]) / site.units if site.units else 1.0
    return tuple(value * math.sqrt(positions) for value in site.backward_rms)


def backward_band(profile: Profile, limits: Limits, shown: Sequence[SiteProfile]) -> Band | None:
    """Between the limits of GS101 and GS102, from the signal at the last site that they compare."""
    last = judged_last(profile)
    if last is None or last not in shown or not {"GS101", "GS102"} <= limits.keys():
        return None
    # An optimizer that divides by the gradient's size leaves the upper limit alone to count.
    upper = "warning" if profile.epsilon is None else "error"
    low, high = limits["GS101"].get("warning"), limits["GS102"].get(upper)
    reference = middle(unit_signal(last))
    rules = "GS101, GS102"
    if profile.epsilon is not None:
        rules += f"; below it {profile.optimizer or 'the optimizer'} may learn"
    name = f"times the signal at {shortened(last.name, _NAME_LENGTH)} ({rules})"
    return _band(name, low, high, reference)


def forward_band(profile: Profile, limits: Limits) -> Band | None:
    """Between the limits of GS206, from what the first layer puts out at the first step."""
    layers = [site for site in _trunk(profile) if site.role in _LAYERS]
    norms = [site for site in profile.sites if site.role is Role.NORMALISATION]
    if not layers or "GS206" not in limits:
        return None
    first = max(layers[0], *norms[:1], key=_at_first) if norms else layers[0]
    low, high = limits["GS206"].get("decay"), limits["GS206"].get("growth")
    return _band("times the first layer's output (GS206, of layers)", low, high, _at_first(first))


def variation_band(profile: Profile, limits: Limits) -> Band | None:
    """From the limit of GS204, a share of the input's variation, to 1, which nothing exceeds."""
    trunk = _trunk(profile)
    known = [
        value
        for value in profile.input_variation or (trunk[0].variation if trunk else ())
        if value > 0
    ]
    share = limits.get("GS204", {}).get("variation")
    if share is None or not known:
        return None
    low = share * middle(known)
    if not 0 < low < 1:
        return None
    return Band(f"healthy: at least {number(share)} of the input's (GS204)", low, 1.0)


def judged_last(profile: Profile) -> SiteProfile | None:
    """The site nearest the loss of those between which GS101 and GS102 compare; None for none.

    The activations on the trunk; where there are fewer than two depths of them, those of branches,
    then all, then the layers in their place.
    """
    reached = [
        site
        for site in profile.sites
        if not site.is_output and not all(math.isnan(value) for value in site.backward_rms)
    ]
    activations = [site for site in reached if site.role is Role.ACTIVATION]
    layers = [site for site in reached if site.role not in _ASIDE]
    for candidates in (
        [site for site in activations if not site.branch],
        [site for site in activations if site.branch],
        activations,
        [site for site in layers if not site.branch],
        layers,
    ):
        if len({site.depth for site in candidates}) > 1:
            deepest = max(site.depth for site in candidates)
            stage = [site for site in _by_depth(candidates) if site.depth == deepest]
            return max(stage, key=lambda site: _size(middle(unit_signal(site))))
    return None


def _size(value: float) -> tuple[bool, float]:
    return math.isfinite(value), value


def _trunk(profile: Profile) -> list[SiteProfile]:
    return _by_depth(
        site for site in profile.sites if not (site.branch or site.is_output or site.role in _ASIDE)
    )


def _by_depth(sites: Iterable[SiteProfile]) -> list[SiteProfile]:
    return sorted(sites, key=lambda site: (site.depth, site.index))


def _at_first(site: SiteProfile) -> float:
    first = next(iter(site.forward_rms), math.nan)
    return first if math.isfinite(first) else 0.0


def _band(name: str, low: float | None, high: float | None, reference: float) -> Band | None:
    if low is None or high is None:
        return None
    ends = low * reference, high * reference
    if not 0 < ends[0] < ends[1] < math.inf:
        return None
    return Band(f"healthy: {number(low)} to {number(high)} {name}", *ends)
