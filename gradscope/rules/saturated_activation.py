"""GS202: bounded activations stuck in their flat parts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, SiteProfile, Skipped
from gradscope.rules import Rule, first_faulty, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile
from gradscope.rules.units import seen_often_enough
from gradscope.subject import Subject

__all__ = ["Limits", "SaturatedActivation"]


# Outputs of bounded activations that are this near to the size they end up with have settled.
_SETTLED = 0.9


@dataclass(frozen=True)
class Limits:
    error: float = limit(0.5, "share of a site's units", "chosen: decision 19")
    observations: float = limit(2000, "samples times positions", "chosen: decision 19")


class SaturatedActivation(Rule[Limits]):
    """Bounded activations stuck in their flat parts.

    ## What it does
    Sigmoid, tanh and their like squeeze any number into a fixed range: for inputs far from zero
    their curve is flat, the output sits at one end of the range and hardly moves. There the
    activation is saturated. A unit counts as saturated where its derivative is below 1 % of its
    largest possible value on at least 95 % of all samples and positions. The rule fires where too
    large a share of a site's units is saturated. The model's own output is left out: a confident
    prediction is meant to be extreme.

    ## Why it is bad
    The derivative is a factor of every gradient that passes. A layer of saturated units passes
    almost nothing, in either direction: its outputs hardly depend on its inputs any more, and what
    lies before it hardly learns.

    What to do: see first whether the inputs (GS701), the weights (GS303) or the learning rate
    (GS301) drive the units there, and mend that. Otherwise draw the weights with
    ``torch.nn.init.xavier_normal_``, put a normalisation before the activation, or use ReLU, GELU
    or SiLU, which are not flat on both sides.

    ## When it is wrong
    Gates that have learned to stay open or shut are saturated and right. Look at whether the
    loss still falls.

    ## References
    Glorot, Bengio 2010 (Understanding the difficulty of training deep feedforward neural
    networks), section 3.
    """

    code = "GS202"
    name = "saturated-activation"
    limits = Limits()
    explained_by = ("GS401", "GS701", "GS303", "GS301")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        candidates = [
            site for site in profile.sites if site.saturated is not None and not site.is_output
        ]
        seen = seen_often_enough(self.code, candidates, limits.observations)
        if isinstance(seen, Skipped):
            return seen
        shares = {site.name: site.saturated or 0.0 for site in seen}
        faulty = [site for site in seen if shares[site.name] > limits.error]
        if not faulty:
            return None
        worst = max(faulty, key=lambda site: shares[site.name])
        share = shares[worst.name]
        return self.finding(
            Severity.ERROR,
            [site.name for site in faulty],
            f"{share:.0%} of the {worst.units} units at {worst.name} ({worst.operator}) are "
            f"saturated (limit {limits.error:.0%}); {len(faulty)} of {len(seen)} bounded "
            "activations are affected.",
            {"saturated units, worst site": Measure(share, limits.error, profile.source)},
            since=_since(worst),
        )

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | Skipped | None:
        return self.check(profile, limits)

    def bad(self) -> Subject:
        def initialise(layer: nn.Linear) -> None:
            # Biases far from zero hold every unit at an end, whatever the input.
            nn.init.normal_(layer.weight, std=1.0)
            nn.init.normal_(layer.bias, std=1000.0)

        return random_subject(
            "tanh layers with biases of scale 1000",
            lambda: perceptron(nn.Tanh, layers=3, initialise=initialise),
        )

    def good(self) -> Subject:
        def initialise(layer: nn.Linear) -> None:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

        return random_subject(
            "tanh layers with Xavier weights",
            lambda: perceptron(nn.Tanh, layers=3, initialise=initialise),
        )


def _since(site: SiteProfile) -> int:
    """The first step at which the outputs are about as large as at the end: near their bounds.

    Shares of units are counted over all steps together.
    """
    return first_faulty(rms > _SETTLED * site.forward_rms[-1] for rms in site.forward_rms)
