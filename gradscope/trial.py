"""One short training of one arm, from given weights in a given batch order."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.batches import Batch
from gradscope.checked import backward, call, checked_step, make_optimizer, one_line, update
from gradscope.errors import GradscopeError, ModelError
from gradscope.patch import apply
from gradscope.profile.preserve import preserved
from gradscope.randomness import RandomStream, preserved_randomness
from gradscope.records import Plan, Trial
from gradscope.remedies import Training
from gradscope.subject import Subject

__all__ = ["Arm", "Running", "evaluate", "higher_is_better", "training_of"]

_CURVE_POINTS = 40
_LOSS_BATCHES = 16
# Where a metric's name has one of these words in it, less is better.
_LESS_IS_BETTER = {"mse", "mae", "rmse", "nll", "perplexity", "ppl", "deviation", "regret"}
_LESS_IS_BETTER_ENDINGS = ("loss", "error", "errors")


@dataclass(frozen=True, eq=False)
class Arm:
    """What one side of a comparison does: a plan, or the learning rate times a factor."""

    name: str
    plan: Plan = field(default_factory=Plan)
    learning_rate_factor: float = 1.0


def training_of(subject: Subject) -> Training:
    """The subject's training; SGD with momentum where it comes without an optimizer."""
    return Training(
        subject.build_optimizer
        or (lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9))
    )


def higher_is_better(metric: str) -> bool:
    """Whether a metric of that name is one to be large, such as an accuracy."""
    words = re.findall("[a-z]+", metric.lower())
    return not any(
        word in _LESS_IS_BETTER or word.endswith(_LESS_IS_BETTER_ENDINGS) for word in words
    )


def evaluate(subject: Subject, model: nn.Module) -> tuple[str, float]:
    """The subject's first metric and its value; the mean loss of some batches without one.

    Raises:
        ModelError: ``evaluate`` failed or returned something else than numbers by name.
    """
    # Also the modes: an evaluate() that leaves the model in eval mode must not stop its training.
    with preserved(model, seed=0):
        if subject.evaluate is None:
            return "loss", _mean_loss(subject, model)
        metrics = call(subject.evaluate, model, where=f"evaluate() of {subject.name}")
        try:
            name, value = next(iter(metrics.items()))
            return str(name), float(value)
        except (AttributeError, StopIteration, TypeError, ValueError) as error:
            raise ModelError(
                f"evaluate() of {subject.name} must return numbers by name, such as "
                f"{{'accuracy': 0.9}}; it returned {metrics!r:.80}."
            ) from error


@torch.no_grad()
def _mean_loss(subject: Subject, model: nn.Module) -> float:
    model.eval()
    step = checked_step(subject.step)
    losses = [
        float(step(model, batch)) for batch in itertools.islice(subject.data(), _LOSS_BATCHES)
    ]
    if not losses:
        raise ModelError(f"The data of {subject.name} holds no batch.")
    return sum(losses) / len(losses)


class Running:
    """A training that can be taken further in stages.

    Arms that share a seed start from the same weights (as far as their plan leaves them) and see
    the same batches in the same order, whatever random numbers their models draw.
    """

    def __init__(self, subject: Subject, arm: Arm, seed: int) -> None:
        self.arm, self.seed, self.steps = arm, seed, 0
        self._subject = subject
        with preserved_randomness(seed):
            self.model = subject.build_model()
        self.patch = apply(self.model, replace(arm.plan, seed=seed))
        self.model.train()
        with preserved_randomness(seed):
            training = self.patch.training(training_of(subject))
            self._optimizer = make_optimizer(training.build_optimizer, self.model.parameters())
        for group in self._optimizer.param_groups:
            group["lr"] = group["lr"] * arm.learning_rate_factor
        self._step = checked_step(subject.step)
        self._batches = _endless(subject, RandomStream(seed))
        self._noise = RandomStream(seed + 1)
        self._curve: list[tuple[int, float]] = []
        self.diverged = False

    def advance(self, steps: int) -> None:
        """Trains until ``steps`` steps have been taken in all, or the loss is no longer finite."""
        interval = max(1, steps // _CURVE_POINTS)
        since: list[Tensor] = []
        with self._noise.resumed(), torch.enable_grad():
            while self.steps < steps and not self.diverged:
                batch = next(self._batches)
                self._optimizer.zero_grad()
                loss = self._step(self.model, batch)
                # A model whose loss depends on no parameter cannot be trained; it stays as it is.
                if loss.requires_grad:
                    backward(loss, self.model)
                    update(self._optimizer)
                self.steps += 1
                since.append(loss.detach())
                if self.steps % interval == 0 or self.steps == steps:
                    mean = float(torch.stack(since).mean())
                    self._curve.append((self.steps, mean))
                    self.diverged = not math.isfinite(mean)
                    since.clear()

    def trial(self, *, matched: bool) -> Trial:
        """The record of what has been trained so far, with the metric as it is now."""
        metric = math.nan if self.diverged else evaluate(self._subject, self.model)[1]
        return Trial(self.arm.name, self.seed, self.steps, metric, tuple(self._curve), matched)


def _endless(subject: Subject, stream: RandomStream) -> Iterator[Batch]:
    """The subject's batches over and over, all random numbers drawn from ``stream``."""
    with stream.resumed():
        data: Iterable[Any] = subject.data()
    while True:
        empty = True
        try:
            for batch in stream.draw(_shuffled(data, stream)):
                empty = False
                yield batch
        except GradscopeError:
            raise
        except Exception as error:
            raise ModelError(f"The data of {subject.name} raised {one_line(error)}.") from error
        if empty:
            raise ModelError(f"The data of {subject.name} holds no batch.")
        if isinstance(data, Iterator):
            # A generator is spent after one pass.
            with stream.resumed():
                data = subject.data()


def _shuffled(data: Iterable[Any], stream: RandomStream) -> Iterable[Any]:
    """A list of batches in a random order: it has none of its own that a seed could change."""
    if not isinstance(data, Sequence):
        return data
    with stream.resumed():
        order = torch.randperm(len(data)).tolist()
    return (data[index] for index in order)
