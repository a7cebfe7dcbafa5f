"""GS204: over depth the samples of a batch become indistinguishable."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, SiteProfile, Skipped
from gradscope.rules import Rule, in_most_steps, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["ForwardCollapse", "Limits"]


@dataclass(frozen=True)
class Limits:
    variation: float = limit(
        1e-3,
        "share of the input's variation across samples",
        "design; seven-layer sigmoid MLP: 2e-6, live ReLU and BatchNorm networks: above 0.1",
    )


class ForwardCollapse(Rule[Limits]):
    """Over depth the samples of a batch become indistinguishable.

    ## What it does
    Takes at each activation the standard deviation across samples over the RMS, and compares it
    with that of the model's input (with the first site's where inputs are not real numbers). It
    fires where from some site to the last less than the limit is left in at least 5 of 8 steps.

    ## Why it is bad
    A layer that gives every sample the same output has nothing for the next one to work with. The
    gradient may well arrive, but there is no information for it to sort: no change of the
    backward pass cures this. Normalisation, other weights, other activations or a skip connection
    do.

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
    explained_by = ("GS401", "GS201", "GS202")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        if profile.batch_size < 2:
            return Skipped(self.code, "a batch of one sample shows no variation across samples")
        sites = [site for site in profile.activations or profile.sites if not site.is_output]
        if not sites:
            return Skipped(self.code, "there is no layer between input and output")
        reference = profile.input_variation or sites[0].variation
        if not any(value > 0 for value in reference):
            return Skipped(self.code, "the inputs do not vary across samples")
        base = statistics.median(value for value in reference if value > 0)
        # From where on to the end: a collapsed gate beside a live trunk is no collapse.
        faulty = list(
            itertools.takewhile(
                lambda site: in_most_steps(
                    value < limits.variation * base for value in _finite(site)
                ),
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


def _finite(site: SiteProfile) -> list[float]:
    return [value for value in site.variation if math.isfinite(value)]
