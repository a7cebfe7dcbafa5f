"""On which scale weights were drawn, beside the ones that usual initialisations give.

The scale of a weight is its RMS times the root of its fan-in: the factor by which the layer
multiplies the RMS of its input, where that is of zero mean.
"""

from __future__ import annotations

import math

from gradscope.records import ParameterProfile, Profile, Role, SiteProfile
from gradscope.rules import limit

__all__ = ["LARGEST_USUAL", "as_drawn", "free_layers", "fresh_spread", "scale", "smallest_usual"]

LARGEST_USUAL = math.sqrt(2)
"""He et al. 2015."""

_PYTORCH = math.sqrt(1 / 3)

# Of fewer rows the spread is too rough an estimate.
_ROWS = 32


def fresh_spread() -> float:
    """The limit of the rules that only look at fresh weights."""
    return limit(  # type: ignore[no-any-return]
        1.5,
        "times how much the lengths of random rows differ",
        "measured: fresh weights up to 1.2, after 200 to 400 steps 1.9 and more at some layer",
    )


def as_drawn(profile: Profile, spread: float) -> bool:
    """Whether no layer has been trained, as far as the lengths of the rows of weights tell.

    Training makes some units' weights longer than others'; initialisations treat all alike. Rows
    of n independent normal numbers differ in length by 1 / sqrt(2 n) of it, in the standard
    deviation; ``spread`` times that is let pass.
    """
    layers = {site.module for site in profile.sites if site.role is Role.LAYER}
    spreads = [
        parameter.row_spread * math.sqrt(2 * parameter.elements / parameter.shape[0])
        for parameter in profile.parameters
        if parameter.module in layers and len(parameter.shape) > 1 and parameter.shape[0] >= _ROWS
    ]
    return all(seen <= spread for seen in spreads if not math.isnan(seen))


def free_layers(profile: Profile) -> dict[SiteProfile, list[ParameterProfile]]:
    """The layers whose scale nothing right behind them undoes, each with its trainable weights.

    Layers right before attention are left out, too: what their scale does shows in the scores. An
    output without a weight of its own is taken to be tied to the embedding of as many rows.
    """
    at = {site.index: site for site in profile.sites}
    owned: dict[str, list[ParameterProfile]] = {}
    for parameter in profile.parameters:
        owned.setdefault(parameter.module, []).append(parameter)
    embeddings = [
        weight
        for site in profile.sites
        if site.role is Role.EMBEDDING
        for weight in owned.get(site.module, ())
    ]
    layers: dict[SiteProfile, list[ParameterProfile]] = {}
    for site in profile.sites:
        if site.role is Role.LAYER and not _normalised(at, site.index + 1):
            weights = [each for each in owned.get(site.module, ()) if _is_weight(each, site)]
            if site.is_output and not weights:
                weights = [
                    each
                    for each in embeddings
                    if each.shape[0] == site.units and _is_weight(each, site)
                ]
            if weights and not _before_attention(at, site):
                layers[site] = weights
    return layers


def _is_weight(parameter: ParameterProfile, site: SiteProfile) -> bool:
    """Whether what the layer's module owns is a weight of the layer, and training changes it.

    A function is called with a weight of the module around it, which may own others.
    """
    return (
        len(parameter.shape) > 1
        and parameter.elements > 0
        and parameter.trainable
        and not parameter.nonfinite
        and (not site.is_call or site.units in parameter.shape)
    )


def _before_attention(at: dict[int, SiteProfile], site: SiteProfile) -> bool:
    """Whether attention is next, but for layers beside this one, such as key beside query."""
    index = site.index + 1
    while index in at and at[index].role is Role.LAYER and at[index].depth == site.depth:
        index += 1
    return index in at and at[index].role is Role.ATTENTION


def _normalised(at: dict[int, SiteProfile], index: int) -> bool:
    """Whether a normalisation is there, or behind an activation without an upper bound."""
    site = at.get(index)
    if site is not None and site.role is Role.ACTIVATION and site.saturated is None:
        site = at.get(index + 1)
    return site is not None and site.role is Role.NORMALISATION


def scale(weight: ParameterProfile) -> float:
    """RMS times the root of the fan-in: by how much it multiplies a signal."""
    return weight.weight_norm / math.sqrt(weight.shape[0])


def smallest_usual(weight: ParameterProfile) -> float:
    """The smallest scale that a usual initialisation gives: PyTorch's, or Xavier's for its fans."""
    fan_in = weight.elements / weight.shape[0]
    fan_out = weight.elements / weight.shape[1]
    return min(_PYTORCH, math.sqrt(2 * fan_in / (fan_in + fan_out)))
