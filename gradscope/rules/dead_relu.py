"""GS201: ReLU units that are never positive."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["DeadReLU", "Limits"]


@dataclass(frozen=True)
class Limits:
    warning: float = limit(0.2, "share of a site's units", "design")
    error: float = limit(0.5, "share of a site's units", "design")
    observations: float = limit(2000, "samples times positions", "design")


class DeadReLU(Rule[Limits]):
    """ReLU units that are never positive.

    ## What it does
    Counts at each ReLU the units (features of a linear layer, channels of a convolution) whose
    output was zero on every sample and position of several batches. Single zeros are normal:
    about half of a ReLU's elements are. It fires above the limit at any one site.

    ## Why it is bad
    Where a ReLU's input is negative its derivative is zero. A unit for which that holds on all
    samples gets no gradient, so nothing in training brings it back; a layer of dead units cuts
    everything before it off from learning.

    ## When it is wrong
    Trained networks keep some units for rare inputs: show more data before you call them dead. A
    pruned network has dead units by intent.

    ## References
    Lu, Shin, Su, Karniadakis 2019 (Dying ReLU and initialization); Hu, Zhang, Ge (Handling
    Vanishing Gradient Problem Using Artificial Derivative), section III.A.
    """

    code = "GS201"
    name = "dead-relu"
    limits = Limits()
    explained_by = ("GS401",)

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        candidates = [(site, site.dead) for site in profile.sites if site.dead is not None]
        seen = [
            (site, dead) for site, dead in candidates if site.observations >= limits.observations
        ]
        if candidates and not seen:
            most = max(site.observations for site, _ in candidates)
            return Skipped(
                self.code,
                f"units were seen on {most} samples and positions, "
                f"{limits.observations:g} are needed; give more batches",
            )
        faulty = [(site, dead) for site, dead in seen if dead > limits.warning]
        if not faulty:
            return None
        worst, share = max(faulty, key=lambda pair: pair[1])
        severe = share > limits.error
        bound = limits.error if severe else limits.warning
        return self.finding(
            Severity.ERROR if severe else Severity.WARNING,
            [site.name for site, _ in faulty],
            f"{share:.0%} of the {worst.units} units at {worst.name} are never positive "
            f"(limit {bound:.0%}); {len(faulty)} of {len(seen)} ReLU sites are affected.",
            {
                "dead units, worst site": Measure(share, bound, profile.source),
                "dead units, all sites": Measure(
                    sum(dead * site.units for site, dead in seen)
                    / sum(site.units for site, _ in seen),
                    None,
                    profile.source,
                ),
            },
        )

    def bad(self) -> Subject:
        def initialise(layer: nn.Linear) -> None:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.constant_(layer.bias, -4.0)

        return random_subject(
            "ReLU layers with biases of -4",
            lambda: perceptron(nn.ReLU, layers=3, initialise=initialise),
        )

    def good(self) -> Subject:
        def initialise(layer: nn.Linear) -> None:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

        return random_subject(
            "ReLU layers with biases of 0",
            lambda: perceptron(nn.ReLU, layers=3, initialise=initialise),
        )
