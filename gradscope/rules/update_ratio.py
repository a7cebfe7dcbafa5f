"""GS301: updates far too large or far too small for the weights they move."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from gradscope.records import (
    Finding,
    Measure,
    ParameterProfile,
    Profile,
    Severity,
    Skipped,
    Source,
)
from gradscope.rules import Rule, first_faulty, in_most_steps, limit
from gradscope.rules.baseline import loss_over_constant
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile, finite, growth_since, typical_updates
from gradscope.stored import Stored
from gradscope.subject import Subject

__all__ = ["Limits", "UpdateRatio"]

# Their updates have a size of their own, whatever the gradient's, as Adam's have.
_OWN_SIZE = ("lion", "muon", "sign")

# Their first update is several times as long as those that follow: their averages of squared
# gradients start at zero and are not corrected for it.
_LONG_FIRST = ("rmsprop", "adagrad")


@dataclass(frozen=True)
class Limits:
    """Ratios are the norm of an update over that of its weight, median over weights."""

    large: float = limit(
        0.5,
        "ratio",
        "43 networks, fresh and trained: at most 0.29 at good rates, 0.6 to 31 at 100 times those",
    )
    large_first: float = limit(
        2.0, "ratio, by RMSprop and Adagrad", "at most 0.9 at 3 times good rates, 19 at 100 times"
    )
    suspect: float = limit(0.1, "ratio", "chosen: decision 20")
    gentle: float = limit(
        0.01, "ratio", "Karpathy: 1e-3 is common; one that makes the loss larger has another fault"
    )
    harm: float = limit(0.05, "growth of a batch's loss by its own update", "beyond rounding")
    harm_in_training: float = limit(
        1.5, "growth of the loss, of other batches", "decision 30: healthy ones have no such steps"
    )
    small_in_training: float = limit(
        3e-6, "ratio, of a training", "decision 30: fine-tuning at 2e-6 by Adam: 1e-5"
    )
    samples: float = limit(20, "samples of a training", "the first steps of a monitor")
    small: float = limit(1e-5, "ratio", "chosen; fine-tuning at 1e-6 by Adam: 2e-5 to 5e-5")
    small_untrained: float = limit(
        5e-5, "ratio", "43 fresh networks: at least 3.3e-4 at a tenth of good rates"
    )
    small_stored: float = limit(
        2e-5, "ratio, in a checkpoint", "decision 26: too small 1.6e-5, healthy from 7e-4"
    )
    gone: float = limit(
        1e-6,
        "share of the gradient of any parameter, of a checkpoint's weights",
        "chosen: beside biases that learn, weights without gradient are no matter of the rate",
    )
    converged: float = limit(
        1e-3,
        "norm of a checkpoint's gradients",
        "chosen: losses of 1e-6 left 1e-5, networks that learn from 1e-2",
    )
    early: float = limit(10, "steps of a checkpoint", "chosen: weights that start at zero")
    scheduled: float = limit(
        0.5, "share of the first learning rate", "below it a schedule has made updates small"
    )
    moving: float = limit(
        1e-3,
        "ratio of any parameter, biases too",
        "at a thousandth of good rates at most 5e-4, behind vanished activations 1e-2",
    )
    untrained: float = limit(0.9, "share of the loss of a constant prediction", "measured")
    warm_up: float = limit(
        0.35, "growth of updates over the steps, share of proportional", "Adam's fall otherwise"
    )
    warm_up_by_gradient: float = limit(
        0.8, "as warm_up, where updates have the gradient's size", "momentum of 0.9: 0.7 in 8 steps"
    )


class UpdateRatio(Rule[Limits]):
    """Updates far too large or far too small for the weights they move.

    ## What it does
    Takes at each step how far the update really moved each weight, as a share of the weight's
    norm, and of these the median over all weights; biases, norms and weights that start at zero
    are left out. Updates are too large where at some step they move half of a weight's norm and
    some make the loss of the very batch they were made from larger, or where they move a tenth and
    most make it larger: both together are what a learning rate far too high does. They are too
    small where no weight is moved by more than the lower limit at any step, nor any bias by much
    more. That limit is lower where the model predicts better than a constant: in fine-tuning small
    updates are normal.

    In a checkpoint it takes the next update that the optimizer's moments and the stored learning
    rate imply: too large in the median over all weights, or too small for every one of them though
    a gradient arrives. A rate that a schedule has brought down is not held against the run.

    While a model trains, too large are updates that move half of a weight's norm, or a tenth in
    most samples, where the loss got half as large again since; too small are those of a run in
    which none moved any weight by more than the limit, at a rate that does not grow or come down.

    ## Why it is bad
    A gradient says where the loss falls for a small step. A step as large as the weights
    themselves wipes out what they were, whatever the gradient said; the loss jumps, activations
    die or saturate, and often the run ends in NaN. A step of a hundred-thousandth needs a hundred
    thousand others to change anything.

    What to do: change the learning rate until updates are about a thousandth to a hundredth of
    the weights. Too large: divide it by 30 and go up again by factors of 3. Too small: multiply it
    by 100, and look for a schedule that starts at zero or a factor that is applied twice.

    ## When it is wrong
    Fine-tuning and warm-ups use small updates by intent: updates that grow from step to step are
    taken for a warm-up, and a rate below one in 100,000 is rare in fine-tuning, but exists. A
    linear model with few features can take large steps and still converge; it is only found
    where the loss grows.

    ## References
    Karpathy, CS231n notes, "Ratio of weights:updates"; You et al. 2020 (Large batch optimization
    for deep learning: LAMB); Bernstein et al. 2020 (On the distance between two neural networks
    and the stability of learning).
    """

    code = "GS301"
    name = "update-ratio"
    limits = Limits()
    needs_data = True
    explained_by = ("GS701", "GS303", "GS102", "GS304")
    acts_after_update = True

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        if profile.optimizer is None:
            return Skipped(self.code, "no optimizer was given, so nothing was updated")
        ratios = _typical_ratios(profile)
        finite = [ratio for ratio in ratios if math.isfinite(ratio)]
        # Nothing that moves at all is another fault.
        if not any(finite):
            return None
        return self._too_large(profile, limits, ratios) or self._too_small(profile, limits)

    def _too_large(
        self, profile: Profile, limits: Limits, ratios: Sequence[float]
    ) -> Finding | None:
        largest = max(ratio for ratio in ratios if math.isfinite(ratio))
        harmed = _harmed(profile, limits.harm)
        if _goes_the_wrong_way(profile, ratios, limits.gentle):
            return None
        large = limits.large_first if _is_any(profile, _LONG_FIRST) else limits.large
        if largest > large and any(harmed):
            bound = large
        elif largest > limits.suspect and in_most_steps(harmed):
            bound = limits.suspect
        else:
            return None
        return self.finding(
            Severity.ERROR,
            _moved_at(profile, ratios.index(largest)),
            f"At step {ratios.index(largest)} the update moves a weight by {largest:.2g} of its "
            f"norm, in the median over weights (limit {bound:g}), and {sum(harmed)} of "
            f"{len(harmed)} updates make the loss of their own batch larger.",
            {
                "update over weight, largest of a step": Measure(largest, bound, profile.source),
                "updates that make the loss of their batch larger": Measure(
                    sum(harmed), None, profile.source
                ),
            },
            since=_since(profile, ratios, limits.suspect),
        )

    def _too_small(self, profile: Profile, limits: Limits) -> Finding | None:
        steps = [_largest(_weights(profile), step) for step in range(profile.steps)]
        largest = max(steps)
        anything = max(_largest(_learning(profile), step) for step in range(profile.steps))
        level = loss_over_constant(profile)
        untrained = level is not None and level >= limits.untrained
        bound = limits.small_untrained if untrained else limits.small
        if largest >= bound or anything >= limits.moving or _warms_up(profile, limits, steps):
            return None
        return self.finding(
            Severity.WARNING,
            _moved_at(profile, steps.index(largest)),
            f"No update of {profile.steps} steps moves any weight by more than {largest:.2g} of "
            f"its norm (limit {bound:g}).",
            {"update over weight, largest of all": Measure(largest, bound, profile.source)},
        )

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | None:
        return self._too_large_in_training(profile, limits) or self._too_small_in_training(
            profile, limits
        )

    def _too_large_in_training(self, profile: TrainingProfile, limits: Limits) -> Finding | None:
        ratios = typical_updates(profile)
        known = finite(ratios)
        large = limits.large_first if _is_any(profile, _LONG_FIRST) else limits.large
        if in_most_steps(ratio > limits.suspect for ratio in known):
            bound, since = limits.suspect, first_faulty(ratio > limits.suspect for ratio in ratios)
        elif max(known, default=0.0) > large:
            bound, since = large, first_faulty(ratio > large for ratio in ratios)
        else:
            return None
        growth = growth_since(profile, since)
        if not growth > limits.harm_in_training:
            return None
        largest = max(known)
        step = profile.sampled[ratios.index(largest)]
        return self.finding(
            Severity.ERROR,
            _moved_at(profile, ratios.index(largest)),
            f"At step {step} the update moves a weight by {largest:.2g} of its norm, in the median "
            f"over weights (limit {bound:g}), and the loss is {growth:.2g} times as large as "
            "before such updates.",
            {
                "update over weight, largest of a step": Measure(largest, bound, profile.source),
                "growth of the loss": Measure(growth, limits.harm_in_training, profile.source),
            },
            since=since,
        )

    def _too_small_in_training(self, profile: TrainingProfile, limits: Limits) -> Finding | None:
        largest = profile.largest_update
        if not (
            profile.samples >= limits.samples
            and 0 < largest < limits.small_in_training
            and profile.largest_change < limits.moving
            # A rate that grows is a warm-up, one that has come down is a schedule.
            and max(profile.learning_rates) <= profile.learning_rates[0]
            and profile.learning_rates[-1] >= limits.scheduled * profile.largest_rate
        ):
            return None
        at = max(range(profile.steps), key=lambda at: _largest(_weights(profile), at))
        return self.finding(
            Severity.WARNING,
            _moved_at(profile, at),
            f"No update of {profile.samples} sampled steps moves any weight by more than "
            f"{largest:.2g} of its norm (limit {limits.small_in_training:g}).",
            {
                "update over weight, largest of all": Measure(
                    largest, limits.small_in_training, profile.source
                )
            },
        )

    def check_stored(self, stored: Stored, limits: Limits) -> Finding | Skipped | None:
        layers = {each.name for each in stored.layers}
        told = [each for each in stored.gradients if each.name in layers and each.update_ratio >= 0]
        if not told:
            return Skipped(self.code, "no optimizer's moments are stored")
        ratios = [each.update_ratio for each in told]
        middle, largest = statistics.median(ratios), max(ratios)
        rates = [
            each.learning_rate / each.initial_learning_rate if each.initial_learning_rate else 0.0
            for each in told
        ]
        scheduled = not statistics.median(rates) >= limits.scheduled
        felt = max(each.gradient_of_late for each in told)
        gone = felt < limits.gone * max(each.gradient_of_late for each in stored.gradients)
        gone |= stored.gradient_norm < limits.converged
        # What was zero before the first step is as long as that step.
        early = stored.steps is not None and stored.steps < limits.early
        if middle > limits.large and not early:
            value, bound, how = middle, limits.large, "a weight, in the median, by"
        elif 0 < largest < limits.small_stored and not scheduled and not gone:
            value, bound, how = largest, limits.small_stored, "no weight by more than"
        else:
            return None
        return self.finding(
            Severity.WARNING,
            [each.name for each in told],
            f"At the stored learning rate the next update moves {how} {value:.2g} of its norm "
            f"(limit {bound:g}).",
            {
                "update over weight, implied by the optimizer's moments": Measure(
                    value, bound, Source.OPTIMIZER_STATE
                )
            },
        )

    def bad(self) -> Subject:
        return _trained_at(0.3)

    def good(self) -> Subject:
        return _trained_at(3e-3)


def _learning(profile: Profile) -> list[ParameterProfile]:
    """What is to learn and does not start at zero."""
    return [
        entry
        for entry in profile.parameters
        if entry.trainable and entry.weight_norm > 0 and any(entry.gradient_norm)
    ]


def _weights(profile: Profile) -> list[ParameterProfile]:
    """Of these the weights, where there are any with two dimensions."""
    learning = _learning(profile)
    return [entry for entry in learning if len(entry.shape) > 1] or learning


def _largest(parameters: Sequence[ParameterProfile], step: int) -> float:
    """The largest finite ratio of a step; 0 where there is none."""
    ratios = [entry.update_ratio[step] for entry in parameters]
    return max((ratio for ratio in ratios if math.isfinite(ratio)), default=0.0)


def _typical_ratios(profile: Profile) -> list[float]:
    """Per step the median over weights, the lower one of two; NaN where none is finite."""
    weights = _weights(profile)
    ratios = []
    for step in range(profile.steps):
        known = [entry.update_ratio[step] for entry in weights]
        known = [ratio for ratio in known if math.isfinite(ratio)]
        ratios.append(statistics.median_low(known) if known else math.nan)
    return ratios


def _harmed(profile: Profile, growth: float) -> list[bool]:
    """Per step, whether the update made the loss of its own batch larger by that share of it."""
    return [
        math.isfinite(before)
        and (not math.isfinite(after) or after - before > growth * abs(before))
        for before, after in zip(profile.losses, profile.losses_after, strict=False)
    ]


def _worse(profile: Profile) -> list[bool]:
    """Per step, whether the update made the loss of its own batch larger at all."""
    return [
        after > before for before, after in zip(profile.losses, profile.losses_after, strict=False)
    ]


def _since(profile: Profile, ratios: Sequence[float], suspect: float) -> int:
    """The first large update, or the first of those in a row before it that did harm.

    Under SGD updates grow into what is large, and act before they get there.
    """
    worse = _worse(profile)
    step = first_faulty(ratio > suspect for ratio in ratios)
    while step and step <= len(worse) and worse[step - 1]:
        step -= 1
    return step


def _goes_the_wrong_way(profile: Profile, ratios: Sequence[float], gentle: float) -> bool:
    """Whether already the small steps at the start all make the loss of their own batch larger.

    Then it is no matter of their length.
    """
    first = first_faulty(not ratio < gentle for ratio in ratios)
    worse = _worse(profile)[:first]
    return bool(worse) and all(worse)


def _moved_at(profile: Profile, step: int) -> tuple[str, ...]:
    """The weight that the update of that step moved most."""
    moved = [entry for entry in _weights(profile) if math.isfinite(entry.update_ratio[step])]
    return (max(moved, key=lambda entry: entry.update_ratio[step]).name,)


def _warms_up(profile: Profile, limits: Limits, ratios: Sequence[float]) -> bool:
    """Whether updates grow from step to step as under a learning rate that does."""
    own_size = profile.epsilon is not None or _is_any(profile, _OWN_SIZE)
    share = limits.warm_up if own_size else limits.warm_up_by_gradient
    return len(ratios) > 1 and ratios[-1] > share * len(ratios) * ratios[0]


def _is_any(profile: Profile, names: tuple[str, ...]) -> bool:
    return (profile.optimizer or "").lower().startswith(names)


def _trained_at(rate: float) -> Subject:
    def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=rate)

    return random_subject(
        f"Adam with a learning rate of {rate:g}",
        lambda: perceptron(nn.ReLU, layers=3),
        build_optimizer=adam,
    )
