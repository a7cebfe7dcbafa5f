"""GS204: over depth the samples of a batch become indistinguishable."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, SiteProfile, Skipped
from gradscope.rules import Rule, first_faulty, in_most_steps, limit
from gradscope.rules.signal import trunk
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["ForwardCollapse", "Limits"]


@dataclass(frozen=True)
class Limits:
    variation: float = limit(
        1e-3,
        "share of the input's variation across samples",
        "chosen; seven-layer sigmoid MLP: 2e-6, live ReLU and BatchNorm networks: above 0.1",
    )


class ForwardCollapse(Rule[Limits]):
    """Over depth the samples of a batch become indistinguishable.

    ## What it does
    Takes the standard deviation across samples over the RMS along the trunk: at the activations,
    layers and normalisations that nothing leads around. It compares it with that of the model's
    input (with the first site's where inputs are not real numbers) and fires where from some site
    to the last less than the limit is left in at least 5 of 8 steps. Residual branches and gates
    may collapse: the samples differ beside them.

    ## Why it is bad
    A layer that gives every sample the same output has nothing for the next one to work with. The
    gradient may well arrive, but there is no information for it to sort: no change of the
    backward pass cures this.

    What to do: insert normalisation between the layers, which makes the small differences that
    are left large again; lead skip connections around the layers; or take larger weights (Xavier,
    He) or another activation: sigmoids, whose outputs are all near one half, do it within a few
    layers. Look for a large bias or a constant input feature that drowns the others.

    ## When it is wrong
    Under Adam such a network can still creep out of it: the rule says what is, not what will be.
    A batch of identical samples collapses by itself.

    ## References
    Poole et al. 2016 (Exponential expressivity in deep neural networks through transient chaos);
    Schoenholz et al. 2017 (Deep information propagation).
    """

    code = "GS204"
    name = "forward-collapse"
    limits = Limits()
    explained_by = ("GS401", "GS701", "GS302", "GS303", "GS301", "GS201", "GS202", "GS203")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        if profile.batch_size < 2:
            return Skipped(self.code, "a batch of one sample shows no variation across samples")
        sites = [site for site in trunk(profile) if not _starts_at_zero(site, profile)]
        if not sites:
            return Skipped(self.code, "no site inside the model lies on its trunk")
        reference = profile.input_variation or sites[0].variation
        if not any(value > 0 for value in reference):
            return Skipped(self.code, "the inputs do not vary across samples")
        base = statistics.median(value for value in reference if value > 0)
        floor = limits.variation * base
        # From where on to the end: a collapsed side input beside a live trunk is no collapse.
        faulty = list(
            itertools.takewhile(
                lambda site: in_most_steps(value < floor for value in _finite(site)),
                reversed(sites),
            )
        )[::-1]
        if not faulty:
            return None
        last = faulty[-1]
        left = statistics.median(_finite(last)) / base
        return self.finding(
            Severity.ERROR,
            [site.name for site in faulty],
            f"From {faulty[0].name} on, the samples of a batch are hardly distinguishable: at "
            f"{last.name}, {left:.2g} of the input's variation is left "
            f"(limit {limits.variation:g}).",
            {
                "variation across samples, share of the input's": Measure(
                    left, limits.variation, profile.source
                ),
                "mean correlation between samples": Measure(
                    statistics.median(last.correlation), None, profile.source
                ),
            },
            since=first_faulty(value < floor for value in last.variation),
        )

    def bad(self) -> Subject:
        return random_subject(
            "eight sigmoid layers with small weights",
            lambda: perceptron(
                nn.Sigmoid,
                layers=8,
                initialise=lambda layer: nn.init.normal_(layer.weight, std=0.05),
            ),
        )

    def good(self) -> Subject:
        return random_subject(
            "eight tanh layers with Xavier weights",
            lambda: perceptron(
                nn.Tanh,
                layers=8,
                initialise=lambda layer: nn.init.xavier_normal_(layer.weight),
            ),
        )


def _starts_at_zero(site: SiteProfile, profile: Profile) -> bool:
    """Whether it is a layer with a weight of zeros, as some put at the end: it has yet to speak."""
    return any(
        entry.weight_norm == 0 and entry.name == f"{site.module}.weight"
        for entry in profile.parameters
    )


def _finite(site: SiteProfile) -> list[float]:
    return [value for value in site.variation if math.isfinite(value)]
