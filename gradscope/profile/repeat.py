"""Passes a batch again: after the update that was made from it, and in the other mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gradscope.batches import Batch
from gradscope.errors import ModelError
from gradscope.profile.exchange import Exchange
from gradscope.profile.preserve import preserved
from gradscope.profile.sharding import bare
from gradscope.randomness import captured_randomness
from gradscope.records import ModeLosses

__all__ = ["MODE_BATCHES", "Repeats"]

MODE_BATCHES = 2
"""Batches whose losses are compared in both modes."""

# The same batch with the same random numbers gives the same loss, but for the order of sums.
_SAME = 1e-3


class Repeats:
    """Computes losses once more, with the random numbers of the first time.

    Each leaves the model as it was, and no gradient. A step that gives another loss for the same
    batch (it takes turns between two losses, or counts its calls) is not repeated.

    Attributes:
        refusal: why losses are not repeated; empty where they are.
    """

    def __init__(
        self, step: Callable[[nn.Module, Batch], Tensor], model: nn.Module, exchange: Exchange
    ) -> None:
        # Without wrappers: DDP waits for a backward pass after each forward.
        self._step, self._model, self._exchange = step, bare(model), exchange
        self.refusal = ""

    def start(self) -> None:
        """A batch is about to be passed for the first time."""
        self._rewind = captured_randomness()

    def check(self, batch: Batch, loss: Tensor) -> None:
        """Finds out whether the batch that was passed gives the same loss again."""
        try:
            again, first = self._loss(batch), float(loss)
            alike = math.isclose(again, first, rel_tol=_SAME) or not math.isfinite(first)
        except ModelError:
            alike = False
        if not self._exchange.everyone(alike):
            self.refusal = "the step does not give the same loss for the same batch again"

    def after_update(self, batch: Batch) -> Tensor:
        """The loss of the batch once more; scalar, NaN where it fails."""
        try:
            value = self._loss(batch)
        except ModelError:
            value = math.nan
        return torch.tensor(value, dtype=torch.float64)

    def modes(self, batches: Sequence[Batch]) -> ModeLosses:
        """The losses of some batches in both modes.

        Raises:
            ModelError: the model fails in ``eval()``.
        """
        self.start()
        train = sum(self._loss(batch) for batch in batches) / len(batches)
        with preserved(self._model):
            self._model.eval()
            failure = ""
            try:
                evaluated = sum(self._loss(batch) for batch in batches) / len(batches)
            except ModelError as error:
                evaluated, failure = math.nan, str(error)
        if not self._exchange.everyone(not failure):
            raise ModelError(failure or "the model fails in eval() on another process")
        rests, reaches = _averages(self._model)
        return ModeLosses(self._mean(train), self._mean(evaluated), rests, reaches)

    def _loss(self, batch: Batch) -> float:
        with preserved(self._model):
            self._rewind()
            return float(self._step(self._model, batch).detach())

    def _mean(self, value: float) -> float:
        """The mean over all processes."""
        return sum(self._exchange.gathered(value)) / self._exchange.processes


def _averages(model: nn.Module) -> tuple[int | None, float | None]:
    """On how many batches running statistics rest, and how many they reach back, at most."""
    rests: list[int] = []
    reaches: list[float] = []
    for module in model.modules():
        counted = getattr(module, "num_batches_tracked", None)
        if isinstance(counted, Tensor):
            momentum = getattr(module, "momentum", None)
            rests.append(int(counted))
            # Without a momentum all batches count alike, and one of them will do; with one of
            # zero they never move on from the first.
            reaches.append(1.0 if not momentum else 1 / float(momentum))
    return (min(rests), max(reaches)) if rests else (None, None)
