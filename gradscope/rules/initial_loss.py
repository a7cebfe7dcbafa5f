"""GS504: before the first update the loss is far above that of a guess."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.baseline import UNKNOWN_LOSS
from gradscope.rules.loss import at_the_output
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.weight_scale import as_drawn, fresh_spread
from gradscope.subject import Subject

__all__ = ["InitialLoss", "Limits"]

# Of ``bad()`` and ``good()``.
_CLASSES = 10


@dataclass(frozen=True)
class Limits:
    factor: float = limit(2.0, "times the loss of a guess", "chosen: off by more than 100 %")
    learned: float = limit(0.95, "times the loss of a guess", "below it something was learned")
    steps: float = limit(8, "steps", "measured: what learns at all then has learned by then")
    samples: float = limit(8, "samples", "of fewer, a single odd one decides")
    fresh: float = fresh_spread()


class InitialLoss(Rule[Limits]):
    """Before the first update the loss is far above that of a guess.

    ## What it does
    Compares the loss of the first batch, which no update has touched yet, with that of a
    prediction that favours nothing: ln C for C classes, ln 2 for yes or no. It fires above twice
    that, unless the first eight steps bring it below that of a guess. Of batches of fewer than
    eight samples it takes the mean over as many as make eight. Models that have been trained, as
    weights show some of whose rows are longer than others, are left out. Only losses that are a
    plain mean of ``cross_entropy``, ``nll_loss`` or one of the binary cross entropies can be held
    against a guess; others are not looked at.

    ## Why it is bad
    A model that has learned nothing should know that it knows nothing. Worse than a guess means
    confident and wrong: logits that start out large. The first updates only shrink them again, and
    may throw other weights about on the way.

    What to do: find what makes the logits large, and make it smaller: inputs that are not
    standardised (divide pixels by 255), weights of the last layer that are drawn too wide (start
    them at zero or at a tenth), embeddings of unit size that are reused as output weights (draw
    them with a standard deviation of 0.02).

    ## When it is wrong
    Losses on scores that are divided by a small temperature start high by intent, and where the
    learning rate is low they stay so for longer than eight steps.

    ## References
    Karpathy 2019 (A recipe for training neural networks), "verify loss @ init".
    """

    code = "GS504"
    name = "initial-loss"
    limits = Limits()
    needs_data = True
    explained_by = ("GS401", "GS701", "GS303", "GS702", "GS206")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        call = profile.loss_call
        if call is None:
            return Skipped(self.code, UNKNOWN_LOSS)
        if not profile.losses:
            return None
        if not as_drawn(profile, limits.fresh):
            return None
        batches = max(1, math.ceil(limits.samples / profile.batch_size))
        if few := self.too_few(profile, batches):
            return few
        levels = [
            statistics.fmean(profile.losses[step : step + batches])
            for step in range(max(1, int(min(limits.steps, profile.steps)) - batches + 1))
        ]
        first = levels[0]
        factor = first / call.guess if call.guess else math.nan
        if not (math.isfinite(factor) and factor > limits.factor):
            return None
        if any(level <= limits.learned * call.guess for level in levels):
            return None
        return self.finding(
            Severity.WARNING,
            at_the_output(profile),
            f"The loss starts at {first:.3g}, {factor:.2g} times the {call.guess:.3g} of a guess.",
            {"first loss, times that of a guess": Measure(factor, limits.factor, profile.source)},
        )

    def bad(self) -> Subject:
        return random_subject("an output layer drawn from N(0, 1)", lambda: _with_last_layer(1.0))

    def good(self) -> Subject:
        return random_subject("an output layer drawn from N(0, 0.1)", lambda: _with_last_layer(0.1))


def _with_last_layer(spread: float) -> nn.Module:
    def initialise(layer: nn.Linear) -> None:
        if layer.out_features == _CLASSES:
            nn.init.normal_(layer.weight, std=spread)
        else:
            nn.init.kaiming_normal_(layer.weight)

    return perceptron(nn.ReLU, layers=2, classes=_CLASSES, initialise=initialise)
