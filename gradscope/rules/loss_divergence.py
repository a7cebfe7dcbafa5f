"""GS503: the updates make the loss grow."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, in_most_steps, limit
from gradscope.rules.baseline import constant_loss
from gradscope.rules.loss import most_moved
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile, finite, starts_as_a_guess, typical_updates
from gradscope.subject import Subject

__all__ = ["Limits", "LossDivergence"]

# Losses of a training that are compared with as many others.
_LAST = 50


@dataclass(frozen=True)
class Limits:
    """The first three are growths of the loss (dimensionless)."""

    warning: float = limit(3.0, "times", "measured: up to 2.9 at good learning rates")
    error: float = limit(30.0, "times", "measured: hardly any that grew so far learned again")
    halves: float = limit(3.0, "times", "measured: up to 2.3 for batches of 64 samples")
    samples: float = limit(8, "samples", "losses of smaller batches differ threefold by chance")
    steps: float = limit(8, "steps", "chosen: decision 21")
    update: float = limit(0.05, "update over weight, in training", "chosen: decision 30")


class LossDivergence(Rule[Limits]):
    """The updates make the loss grow.

    ## What it does
    Passes each batch again after the update that was made from it, and follows how the loss of
    that very batch changed: a hard batch makes the loss of a step larger, but not its change. The
    changes in a row, each as a share of the largest loss so far (or of what a constant prediction
    gets, if that is more), are multiplied, anew from where they have cancelled out; the rule fires
    where they have made the loss three times as large. It also fires where every loss of the
    second half of the steps is above every one of the first, and three times as large in the
    median: then each update suits its own batch only. The first update that Adam and its relatives
    make of a trained model does not count: without its moments it is always too long.

    While a model trains, it fires where each of the last 50 losses is above all of the first 50,
    and three times as large in the median, if updates are large or the run began with what a guess
    among classes gets: losses of critics and players grow in healthy trainings.

    ## Why it is bad
    An update is meant to make the loss smaller. Where it does the opposite the step is longer than
    the slope it follows holds for; the next gradient is larger still, and so on up to infinity
    and NaN. Where the loss comes down again by itself it is often because the network has been
    wrecked: its units are dead or saturated, and it predicts one constant.

    What to do: divide the learning rate by ten and go up again by factors of three; warm it up
    over the first steps; clip the gradient's norm. If the loss still grows, look for a wrong sign
    in it, and for data that come sorted by class: shuffle them.

    ## When it is wrong
    Adversarial training and reinforcement learning follow losses that are not meant to fall. Of a
    loss around zero, as likelihoods of densities can be, no ratio says anything.

    ## References
    Goodfellow, Bengio, Courville 2016 (Deep Learning), section 8.3.1; Page 1954 (Continuous
    inspection schemes), for the way changes are followed.
    """

    code = "GS503"
    name = "loss-divergence"
    limits = Limits()
    needs_data = True
    explained_by = ("GS701", "GS303", "GS206", "GS102", "GS301", "GS502")
    acts_after_update = True

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        if not profile.losses_after:
            return Skipped(self.code, "no batch was passed again after an update")
        growth, since = _growth_by_updates(profile)
        if growth > limits.warning:
            severe = growth > limits.error
            bound = limits.error if severe else limits.warning
            return self.finding(
                Severity.ERROR if severe else Severity.WARNING,
                most_moved(profile),
                f"From step {since} on the updates make the loss of their own batches "
                f"{growth:.3g} times as large (limit {bound:g}).",
                {"growth of the loss by updates": Measure(growth, bound, profile.source)},
                since=since,
            )
        if few := self.too_few(profile, max(limits.steps, 2)):
            return few
        growth = _growth_over_halves(profile)
        if profile.batch_size < limits.samples or not growth > limits.halves:
            return None
        return self.finding(
            Severity.WARNING,
            most_moved(profile),
            f"The loss of the second half of {profile.steps} steps is {growth:.3g} times that of "
            f"the first (limit {limits.halves:g}).",
            {"loss, second half over first": Measure(growth, limits.halves, profile.source)},
            since=profile.steps // 2,
        )

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | None:
        first = finite(profile.first_losses)
        last = profile.recent_losses[-_LAST:]
        if len(first) < _LAST or len(last) < _LAST or not min(first) > 0:
            return None
        if profile.sampled[-1] - profile.sampled[0] < _LAST or not min(last) > max(first):
            return None
        growth = statistics.median(last) / statistics.median(first)
        # Losses of players and critics grow in healthy trainings, but not by such updates, nor
        # from what a guess among classes gets.
        updates = finite(typical_updates(profile))
        if not growth > limits.warning or not (
            in_most_steps(ratio > limits.update for ratio in updates) or starts_as_a_guess(profile)
        ):
            return None
        severe = growth > limits.error
        bound = limits.error if severe else limits.warning
        return self.finding(
            Severity.ERROR if severe else Severity.WARNING,
            most_moved(profile),
            f"Every loss of the last {len(last)} steps is above all of the first {len(first)}, "
            f"{growth:.3g} times as large in the median (limit {bound:g}).",
            {"loss, last over first steps": Measure(growth, bound, profile.source)},
        )

    def bad(self) -> Subject:
        return _trained_at(10.0)

    def good(self) -> Subject:
        return _trained_at(0.1)


def _growth_by_updates(profile: Profile) -> tuple[float, int]:
    """How many times larger updates in a row made the loss at most, and from which step on.

    A loss that is not finite ends the row.
    """
    pairs = list(zip(profile.losses, profile.losses_after, strict=False))
    largest = constant_loss(profile) or 0.0
    begin = 0
    # The first update of an optimizer that divides by gradient magnitudes has full length however
    # small the gradient is: it throws a trained model out of its minimum.
    if profile.epsilon is not None and not profile.losses[0] >= largest > 0:
        largest = max([largest, *(abs(loss) for loss in pairs[0] if math.isfinite(loss))])
        begin = 1
    total = highest = 0.0
    start = since = begin
    for step, (before, later) in enumerate(pairs[begin:], begin):
        if not (math.isfinite(before) and math.isfinite(later)):
            break
        largest = max(largest, abs(before))
        factor = 1 + (later - before) / largest if largest else 1.0
        total += math.log(factor) if factor > 0 else -math.inf
        if total <= 0:
            total, start = 0.0, step + 1
        elif total > highest:
            highest, since = total, start
    return math.exp(highest), since


def _growth_over_halves(profile: Profile) -> float:
    """The ratio of the halves' medians; 1 where the halves overlap or are not above zero."""
    middle = profile.steps // 2
    first, second = profile.losses[:middle], profile.losses[middle:]
    if not all(math.isfinite(loss) and loss > 0 for loss in profile.losses):
        return 1.0
    if min(second) <= max(first):
        return 1.0
    return statistics.median(second) / max(statistics.median(first), constant_loss(profile) or 0.0)


def _trained_at(rate: float) -> Subject:
    return random_subject(
        f"a learning rate of {rate:g}",
        lambda: perceptron(nn.Tanh, layers=2),
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
    )
