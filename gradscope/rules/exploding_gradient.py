"""GS102: the backward signal grows on its way to the input."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Profile, Severity, Skipped
from gradscope.rules import Rule, first_faulty, in_most_steps, limit
from gradscope.rules.signal import (
    backward_sites,
    first_over_last,
    ratio_evidence,
    told,
    typical,
)
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile
from gradscope.subject import Subject

__all__ = ["ExplodingGradient", "Limits"]


@dataclass(frozen=True)
class Limits:
    """Each is the backward signal at the first site over that at the last (dimensionless)."""

    warning: float = limit(5e3, "ratio", "decision 15")
    error: float = limit(3e4, "ratio", "decision 15")


class ExplodingGradient(Rule[Limits]):
    """The backward signal grows on its way to the input.

    ## What it does
    Compares dL/d(output) at the first and the last activation, as RMS per sample, summed in
    squares over positions. It fires when the ratio is above the limit in at least 5 of 8 steps,
    the first that tells among them: a network that explodes does so from the start, and what
    comes up after some updates is those updates' doing.

    ## Why it is bad
    The first layers' updates are larger than the last layers' by that factor: a learning rate that
    suits one end throws the other about, and the loss jumps or turns into NaN.

    What to do: initialise the weights for their fan-in and activation (``nn.init.kaiming_normal_``
    for ReLU, ``nn.init.xavier_normal_`` for tanh), insert normalisation, or scale residual
    branches down (by one over the root of their number, or from zero). Clipping the gradient's
    norm and a smaller learning rate keep such a network from diverging; they do not make its
    first and last layers learn at one speed.

    ## When it is wrong
    Under Adam and its relatives the scale alone harms less, since each gradient is divided by its
    own magnitude: for them only the upper limit counts, and it is a warning. BatchNorm makes
    gradients grow by itself, about 1.2 times a layer and 1.5 times a bottleneck block, and trains
    all the same up to some tens of layers.

    ## References
    Goodfellow, Bengio, Courville 2016 (Deep Learning), section 8.2.4; Pascanu, Mikolov, Bengio
    2013 (On the difficulty of training recurrent neural networks); Yang et al. 2019 (A mean field
    theory of batch normalization).
    """

    code = "GS102"
    name = "exploding-gradient"
    limits = Limits()
    explained_by = ("GS701", "GS303", "GS206")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        sites = backward_sites(profile)
        if len(sites) < 2:
            return Skipped(self.code, "fewer than two sites received a gradient")
        first, last = sites[0], sites[-1]
        ratios = first_over_last(sites)
        seen = told(ratios)
        severe = in_most_steps(ratio > limits.error for ratio in seen)
        adaptive = profile.epsilon is not None
        if not severe and (adaptive or not in_most_steps(r > limits.warning for r in seen)):
            return None
        if not seen[0] > limits.warning:
            return None
        bound = limits.error if severe else limits.warning
        ratio = statistics.median(seen)
        return self.finding(
            Severity.ERROR if severe and not adaptive else Severity.WARNING,
            [site.name for site in sites if typical(site) > limits.warning * typical(last)],
            f"The backward signal at {last.name} has grown {ratio:.2g} times at {first.name} "
            f"(limit {bound:g}) after {len(sites) - 1} sites.",
            ratio_evidence(sites, ratio, bound, profile.source),
            since=first_faulty(ratio > bound for ratio in ratios),
        )

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | Skipped | None:
        return self.check(profile, limits)

    def bad(self) -> Subject:
        def initialise(layer: nn.Linear) -> None:
            # Three times He's: each layer passes back three times what it is given.
            nn.init.kaiming_normal_(layer.weight)
            layer.weight.data *= 3

        return random_subject(
            "ten ReLU layers with weights three times He's",
            lambda: perceptron(nn.ReLU, layers=10, initialise=initialise),
        )

    def good(self) -> Subject:
        return random_subject(
            "ten ReLU layers with He weights",
            lambda: perceptron(
                nn.ReLU,
                layers=10,
                initialise=lambda layer: nn.init.kaiming_normal_(layer.weight),
            ),
        )
