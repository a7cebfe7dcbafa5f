"""GS206: activations grow or shrink by orders of magnitude over depth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Role, Severity, SiteProfile, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.signal import trunk
from gradscope.rules.subjects import random_subject
from gradscope.rules.training import TrainingProfile
from gradscope.subject import Subject

__all__ = ["ActivationScale", "Limits"]

_LAYERS = (Role.LAYER, Role.NORMALISATION, Role.EMBEDDING)
_ACTIVATIONS = (Role.ACTIVATION,)


_ON_LOGITS = ("cross_entropy", "binary_cross_entropy_with_logits")


@dataclass(frozen=True)
class Limits:
    """Each is the RMS of a layer's output over that of the first layer's (dimensionless)."""

    growth: float = limit(1e3, "ratio", "chosen; 54 healthy networks: at most 76")
    decay: float = limit(1e-3, "ratio", "chosen; 54 healthy networks: at least 0.05")


class ActivationScale(Rule[Limits]):
    """Activations grow or shrink by orders of magnitude over depth.

    ## What it does
    Compares, at the first step, the RMS of what each layer and normalisation puts out with that of
    the first layer, or of the first normalisation where that is larger. It fires where some
    layer's is a thousand times larger, on the trunk or at the head of a residual branch, or where
    from some layer of the trunk to the last it is a thousand times smaller. The model's own output
    has the scale that its targets ask for: it counts only where it is logits, and only if it is too
    large. Layers that put out nothing but zeros are left out.

    ## Why it is bad
    Each layer multiplies the scale of its input by the gain of its weights; what is a little off
    in one layer is off by its power in many. Large activations saturate what is bounded, make
    softmax and losses overflow and let gradients explode. In small ones the biases drown the
    signal, and gradients, which pass the same weights, shrink with them.

    What to do: initialise the weights for their fan-in and activation: ``nn.init.kaiming_normal_``
    for ReLU (PyTorch's default for linear layers and convolutions has a gain of 0.4 per layer
    there), ``nn.init.xavier_normal_`` for tanh. Or insert normalisation after every layer or block,
    and one before the head of a residual network; or start residual branches at zero.

    ## When it is wrong
    Where a first layer's scale is odd by itself (an embedding of very small numbers that a
    normalisation follows), the ratio says nothing about depth.

    ## References
    He, Zhang, Ren, Sun 2015 (Delving deep into rectifiers), section 2.2; Glorot, Bengio 2010;
    Zhang, Dauphin, Ma 2019 (Fixup initialization); Mishkin, Matas 2016 (All you need is a good
    init).
    """

    code = "GS206"
    name = "activation-scale"
    limits = Limits()
    explained_by = ("GS701", "GS303")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        return self._check(profile, limits, _LAYERS)

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | Skipped | None:
        # Of a model with activations a monitor watches no layers.
        watched = {site.role for site in profile.sites}
        return self._check(profile, limits, _LAYERS if Role.LAYER in watched else _ACTIVATIONS)

    def _check(
        self, profile: Profile, limits: Limits, roles: tuple[Role, ...]
    ) -> Finding | Skipped | None:
        layers = [site for site in trunk(profile) if site.role in roles]
        if not layers:
            return None
        # Numbers of an embedding may be small by themselves: a normalisation says where depth
        # starts as well.
        norms = [site for site in profile.sites if site.role is Role.NORMALISATION]
        first = max(layers[0], *norms[:1], key=_scale) if norms else layers[0]
        rest = layers[1:]
        has_logits = profile.loss_call is not None and profile.loss_call.function in _ON_LOGITS
        others = [
            site
            for site in profile.sites
            if site.role in roles and (has_logits if site.is_output else site.branch)
        ]
        grown = [site for site in (*rest, *others) if _ratio(site, first) > limits.growth]
        if grown:
            return self._found(
                profile, grown, max(grown, key=_scale), first, limits.growth, Severity.ERROR
            )
        speaking = [site for site in rest if any(site.forward_rms)]
        shrunk = list(
            itertools.takewhile(
                lambda site: 0 < _ratio(site, first) < limits.decay, reversed(speaking)
            )
        )[::-1]
        if shrunk:
            return self._found(
                profile, shrunk, min(shrunk, key=_scale), first, limits.decay, Severity.WARNING
            )
        return None

    def _found(
        self,
        profile: Profile,
        sites: list[SiteProfile],
        worst: SiteProfile,
        first: SiteProfile,
        bound: float,
        severity: Severity,
    ) -> Finding:
        ratio = _ratio(worst, first)
        return self.finding(
            severity,
            [site.name for site in sites],
            f"The activations at {worst.name} are {ratio:.2g} times those at {first.name} (limit "
            f"{bound:g}).",
            {
                "RMS over that of the first layer, worst layer": Measure(
                    ratio, bound, profile.source
                )
            },
        )

    def bad(self) -> Subject:
        # PyTorch's own initialisation, which leaves 0.41 of the scale after each ReLU.
        return random_subject("a deep ReLU network without biases", lambda: _deep(None))

    def good(self) -> Subject:
        return random_subject(
            "the same with He weights",
            lambda: _deep(lambda layer: nn.init.kaiming_normal_(layer.weight)),
        )


def _scale(site: SiteProfile) -> float:
    """Its RMS at the first step; 0 where that is not finite."""
    return site.forward_rms[0] if math.isfinite(site.forward_rms[0]) else 0.0


def _ratio(site: SiteProfile, first: SiteProfile) -> float:
    """Its scale over that of the first layer; NaN where there is none to compare with."""
    return _scale(site) / _scale(first) if _scale(first) else math.nan


def _deep(initialise: Callable[[nn.Linear], object] | None) -> nn.Sequential:
    """Twelve ReLU layers without biases."""
    modules: list[nn.Module] = []
    for fan_in in [32] + [64] * 11:
        linear = nn.Linear(fan_in, 64, bias=False)
        if initialise is not None:
            initialise(linear)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules, nn.Linear(64, 10))
