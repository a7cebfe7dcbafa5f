"""What rules are shown of a training that goes on: its last sampled steps, and its losses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from gradscope.records import Profile

__all__ = [
    "Stuck",
    "TrainingProfile",
    "finite",
    "growth_since",
    "loss_of_a_guess",
    "starts_as_a_guess",
    "typical_updates",
]

# Of two classes the guess's loss, ln 2, is also where two players rest.
_FEWEST_CLASSES = 3

_START = 5
_NEAR = 0.25


@dataclass(frozen=True, slots=True)
class Stuck:
    """A parameter that something has not happened to in any sample of the run so far.

    Attributes:
        name: of the parameter.
        samples: in how many it could have happened.
    """

    name: str
    samples: int


@dataclass(frozen=True, slots=True)
class TrainingProfile(Profile):
    """A window over a training: series have one value for each of the last sampled steps.

    What a monitor does not measure is NaN, empty or None. The run is what the monitor has seen:
    one that was resumed begins there.

    Attributes:
        sampled: number of each sampled step in the window, from 0.
        used_norms: per sample, of the gradient of all parameters that the update was made from.
        learning_rates: of the first parameter group, per sample.
        largest_rate: of the run.
        samples: how many there were in the run.
        first_losses: of the run's first steps, at most 50, those that were given.
        recent_losses: of the last steps, sampled or not, at most 200; NaN where none was given.
        highest_before: per sample, the largest finite loss of all steps before it; NaN for none.
        losses_before: how many these were.
        idle: parameters that take part in the training and never had a gradient but zero.
        broken: per sample, whether its loss and its gradients were not finite, or its outputs.
        still: parameters that have a gradient and were never moved by an update.
        largest_update: of all samples of the run, the largest share of its norm that an update
            moved a weight by; biases and gains left out. NaN where updates were not measured.
        largest_change: likewise with biases and gains.
    """

    sampled: tuple[int, ...] = ()
    used_norms: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    largest_rate: float = math.nan
    samples: int = 0
    first_losses: tuple[float, ...] = ()
    recent_losses: tuple[float, ...] = ()
    highest_before: tuple[float, ...] = ()
    losses_before: tuple[int, ...] = ()
    idle: tuple[Stuck, ...] = ()
    still: tuple[Stuck, ...] = ()
    broken: tuple[bool, ...] = ()
    largest_update: float = math.nan
    largest_change: float = math.nan


def finite(series: Iterable[float]) -> list[float]:
    """Those that are."""
    return [value for value in series if math.isfinite(value)]


def typical_updates(profile: TrainingProfile) -> list[float]:
    """Per sample the median over weights of update over weight; NaN where none is known."""
    learning = [entry for entry in profile.parameters if entry.trainable and entry.update_ratio]
    weights = [entry for entry in learning if len(entry.shape) > 1] or learning
    return [_median_low(entry.update_ratio[at] for entry in weights) for at in range(profile.steps)]


def growth_since(profile: TrainingProfile, since: int) -> float:
    """How many times larger the loss got with the updates from that sample on; NaN if unknown.

    The step's own loss is that before its update. A run's first steps may have had such updates
    before the first of them that was sampled.
    """
    first, losses = profile.first_losses[:1], profile.losses
    at_start = not since and profile.samples == profile.steps
    before = finite(first if at_start else (*first, *losses[: since + 1]))
    later = finite(losses if at_start else losses[since + 1 :])
    if not (before and later and max(before) > 0):
        return math.nan
    return max(later) / max(before)


def loss_of_a_guess(profile: TrainingProfile) -> float | None:
    """Of C classes it is ln C, where the last parameter has three or more rows.

    The loss function is not seen: that the loss is near this number has to show that it is meant.
    """
    shapes = [entry.shape for entry in profile.parameters if entry.trainable and entry.shape]
    if not shapes or shapes[-1][0] < _FEWEST_CLASSES:
        return None
    return math.log(shapes[-1][0])


def starts_as_a_guess(profile: TrainingProfile) -> bool:
    """Whether the run began with the loss of a guess among classes."""
    guess, first = loss_of_a_guess(profile), finite(profile.first_losses[:_START])
    if guess is None or len(first) < _START:
        return False
    return abs(statistics.median(first) / guess - 1) < _NEAR


def _median_low(values: Iterable[float]) -> float:
    known = finite(values)
    return statistics.median_low(known) if known else math.nan
