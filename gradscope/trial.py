"""One short training of one arm, from given weights in a given batch order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gradscope import registry
from gradscope.batches import Batch, tensors_in
from gradscope.checked import backward, checked_step, make_optimizer, no_batch, one_line, update
from gradscope.errors import GradscopeError, ModelError
from gradscope.metric import evaluate
from gradscope.patch import apply
from gradscope.profile.preserve import same_bits
from gradscope.profile.sharding import bare
from gradscope.randomness import RandomStream, preserved_randomness
from gradscope.records import DO_NOTHING, Plan, Prescription, Trial
from gradscope.remedies import Training
from gradscope.subject import Subject

__all__ = ["Arm", "Running", "arm_name", "other_rate", "same_batches", "training_of", "trial_of"]

_CURVE_POINTS = 40
_COMPARED_BATCHES = 2
_MOST_AHEAD = 16
_AHEAD_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Arm:
    """What one side of a comparison does; by default nothing."""

    name: str
    plan: Plan = field(default_factory=Plan)


def training_of(subject: Subject) -> Training:
    """The subject's training; SGD with momentum where it comes without an optimizer."""
    return Training(
        subject.build_optimizer
        or (lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9))
    )


def other_rate(factor: float) -> Arm:
    """Doing nothing, with another learning rate."""
    entry = registry.remedy("learning-rate")
    reason = "the best of the other learning rates tried"
    rate = Prescription(entry.name, entry.changes, (), {"factor": factor}, "", reason)
    return Arm(f"{DO_NOTHING}, learning rate x{factor:g}", Plan((rate,)))


def arm_name(prescriptions: Sequence[Prescription]) -> str:
    """Short: remedies with their parameters."""
    return " + ".join(map(_name, prescriptions))


class Running:
    """A training that can be taken further in stages.

    Arms that share a seed start from the same weights (as far as their plan leaves them) and see
    the same batches in the same order, whatever random numbers their models draw.
    """

    def __init__(self, subject: Subject, arm: Arm, seed: int, planned: int | None = None) -> None:
        """Starts with ``seed``; ``planned`` is how many steps will be taken in all, if known."""
        self.arm, self.seed, self.steps = arm, seed, 0
        self._subject = subject
        with preserved_randomness(seed):
            self.model = subject.build_model()
        self.patch = apply(self.model, replace(arm.plan, seed=seed))
        # Parts that were put into eval mode on purpose stay there.
        if not self.model.training:
            self.model.train()
        with preserved_randomness(seed):
            training = self.patch.training(training_of(subject))
            self._optimizer = make_optimizer(training.build_optimizer, self.model.parameters())
        training.start(bare(self.model), self._optimizer, planned)
        self._step = checked_step(subject.step)
        self._batches = _endless(subject, seed)
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


def same_batches(subject: Subject, seed: int) -> bool:
    """Whether two trainings of one seed are given the same batches: whether arms can be matched."""
    one, other = _endless(subject, seed), _endless(subject, seed)
    return all(
        all(
            same_bits(left, right)
            for left, right in zip(tensors_in(next(one)), tensors_in(next(other)), strict=True)
        )
        for _ in range(_COMPARED_BATCHES)
    )


def _endless(subject: Subject, seed: int) -> Iterator[Batch]:
    """The subject's batches over and over, in an order that ``seed`` alone decides."""
    made = RandomStream(seed)
    with made.resumed():
        data: Iterable[Any] = subject.data()
    stream = RandomStream(seed, _own_generators(data))
    while True:
        empty = True
        try:
            for batch in stream.draw(_shuffled(data, stream), _ahead):
                empty = False
                yield batch
        except GradscopeError:
            raise
        except Exception as error:
            raise ModelError(f"The data of {subject.name} raised {one_line(error)}.") from error
        if empty:
            raise no_batch(subject.name)
        if isinstance(data, Iterator):
            # A generator is spent after one pass.
            with made.resumed():
                data = subject.data()


def _ahead(batch: Batch) -> int:
    """How many batches to fetch at a time: what fits into 16 MB, 16 at most."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(batch))
    return max(1, min(_MOST_AHEAD, _AHEAD_BYTES // max(1, size)))


def _own_generators(data: Any) -> list[torch.Generator]:
    """The random generators that a DataLoader was given for itself."""
    batch_sampler = getattr(data, "batch_sampler", None)
    holders = (data, getattr(data, "sampler", None), getattr(batch_sampler, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


def _shuffled(data: Iterable[Any], stream: RandomStream) -> Iterable[Any]:
    """A list of batches in a random order: it has none of its own that a seed could change."""
    if not isinstance(data, Sequence):
        return data
    with stream.resumed():
        order = torch.randperm(len(data)).tolist()
    return (data[index] for index in order)


def trial_of(run: Running, *, matched: bool) -> Trial:
    """The record of a run; where its model cannot even be evaluated, that of a failed one."""
    try:
        return run.trial(matched=matched)
    except GradscopeError:
        run.diverged = True
        return run.trial(matched=matched)


def _name(entry: Prescription) -> str:
    values = ", ".join(map(str, entry.parameters.values()))
    return f"{entry.remedy} ({values})" if values else entry.remedy
