"""GS201: ReLU units that are never positive."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from scipy.stats import binomtest
from torch import nn

from gradscope.inactive import inactive_units
from gradscope.records import Finding, Measure, Profile, Severity, SiteProfile, Skipped, Source
from gradscope.rules import Rule, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile
from gradscope.rules.units import seen_often_enough
from gradscope.stored import Stored
from gradscope.subject import Subject

__all__ = ["DeadReLU", "Limits"]

# Variation across samples that is rounding.
_SAME = 1e-5


@dataclass(frozen=True)
class Limits:
    """Dead units are counted less the units that are always positive."""

    warning: float = limit(0.5, "share of a site's units", "decision 9")
    error: float = limit(0.8, "share of a site's units", "decision 9")
    p_value: float = limit(
        0.05, "probability", "convention: four dead units of four may be chance, five are not"
    )
    stored: float = limit(
        0.5,
        "share of a weight's rows in a checkpoint",
        "decision 26: dead 59 %, healthy 33 %",
    )
    observations: float = limit(2000, "samples times positions", "chosen: decision 19")


class DeadReLU(Rule[Limits]):
    """ReLU units that are never positive.

    ## What it does
    Counts at each ReLU the units (features of a linear layer, channels of a convolution) whose
    output was zero on every sample and position of several batches. Single zeros are normal:
    about half of a ReLU's elements are. From the share of dead units it takes the share of
    units that are always positive: where samples hardly differ yet, as deep in a fresh network,
    every unit is one or the other, by the toss of a coin, and the two are equally many. It fires
    above the limit at any one site, unless the coin alone is likely to do it (a gate of four
    units) and the samples still differ behind it.

    In a checkpoint it counts the rows of each hidden weight whose gradient the optimizer does not
    remember, bias included. Layers that the moments say nothing about are left out: before a layer
    in which no unit is left, and behind weight decay or one huge gradient that hides the rest.
    Without an optimizer, it counts channels that a BatchNorm's shift and scale keep below zero.

    ## Why it is bad
    Where a ReLU's input is negative its derivative is zero. A unit for which that holds on all
    samples gets no gradient, so nothing in training brings it back; a layer of dead units cuts
    everything before it off from learning.

    What to do: see first whether the inputs (GS701), the weights (GS303) or the learning rate
    (GS301) have driven the units there. Otherwise start biases at zero, take a lower learning rate
    or a warm-up, put a normalisation before the ReLU, or use LeakyReLU, GELU or SiLU, which pass a
    gradient below zero too. ``gradscope fix`` tries an artificial derivative that revives units
    without changing the forward.

    ## When it is wrong
    Trained networks keep some units for rare inputs: show more data before you call them dead. A
    pruned network has dead units by intent. A checkpoint is late, and blind to units that are
    always positive: see the measured cases in docs/experiments/cold-evidence.md.

    ## References
    Lu, Shin, Su, Karniadakis 2019 (Dying ReLU and initialization); Hu, Zhang, Ge (Handling
    Vanishing Gradient Problem Using Artificial Derivative), section III.A.
    """

    code = "GS201"
    name = "dead-relu"
    limits = Limits()
    explained_by = ("GS401", "GS701", "GS303", "GS301")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        candidates = [site for site in profile.sites if site.dead is not None]
        seen = seen_often_enough(self.code, candidates, limits.observations)
        if isinstance(seen, Skipped):
            return seen
        faulty = [
            site
            for site in seen
            if _excess(site) > limits.warning
            and (_by_chance(site) < limits.p_value or _cuts_off(profile, site))
        ]
        if not faulty:
            return None
        worst = max(faulty, key=_excess)
        severe = _excess(worst) > limits.error
        bound = limits.error if severe else limits.warning
        return self.finding(
            Severity.ERROR if severe else Severity.WARNING,
            [site.name for site in faulty],
            f"{worst.dead:.0%} of the {worst.units} units at {worst.name} are never positive, "
            f"{worst.always_positive:.0%} always: further apart than {bound:.0%}; {len(faulty)} of "
            f"{len(seen)} ReLU sites are affected.",
            {
                "dead less always positive units, worst site": Measure(
                    _excess(worst), bound, profile.source
                ),
                "dead units, all sites": Measure(
                    sum((site.dead or 0.0) * site.units for site in seen)
                    / sum(site.units for site in seen),
                    None,
                    profile.source,
                ),
            },
        )

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | Skipped | None:
        return self.check(profile, limits)

    def check_stored(self, stored: Stored, limits: Limits) -> Finding | Skipped | None:
        shares = inactive_units(stored)
        units = {each.name: each.shape[0] for each in stored.layers}
        told = [(name, units[name], share) for name, share in shares.items()]
        moments = bool(told)
        if moments:
            what, source = "get no gradient of late, as dead ReLUs do", Source.OPTIMIZER_STATE
        else:
            told = [(each.name, each.channels, each.off_channels) for each in stored.normalisations]
            what, source = "are off for all inputs if a ReLU follows", Source.WEIGHTS
        if not told:
            return Skipped(self.code, "neither moments of an optimizer nor a BatchNorm tell")
        faulty = [entry for entry in told if entry[2] > limits.stored]
        if not faulty:
            return None
        name, number, share = max(reversed(faulty), key=lambda entry: entry[2])
        severe = share > limits.error
        bound = limits.error if severe else limits.stored
        return self.finding(
            Severity.ERROR if severe else Severity.WARNING,
            [entry[0] for entry in faulty],
            f"{share:.0%} of the {number} units of {name} {what} (limit {bound:.0%}); "
            f"{len(faulty)} of {len(told)} layers are affected."
            + (" No gradient gets past it." if share == 1.0 and moments else ""),
            {"units without gradient, worst weight": Measure(share, bound, source)},
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


def _excess(site: SiteProfile) -> float:
    """The share of units never positive less the share of units always positive."""
    return (site.dead or 0.0) - (site.always_positive or 0.0)


def _by_chance(site: SiteProfile) -> float:
    """The probability of so many dead units if each were dead or always positive by a fair coin."""
    dead = round((site.dead or 0.0) * site.units)
    settled = dead + round((site.always_positive or 0.0) * site.units)
    return float(binomtest(dead, settled, alternative="greater").pvalue) if settled else 1.0


def _cuts_off(profile: Profile, site: SiteProfile) -> bool:
    """Whether behind the site all samples look the same to the end."""
    behind = [each for each in profile.sites if each.index > site.index]
    return all(statistics.median(each.variation) < _SAME for each in behind)
