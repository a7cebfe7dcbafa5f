"""When the runs of an ensemble use the artificial derivative, and when the true one."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Always", "Annealed", "Converting", "Handover", "Never"]


class Handover:
    """Which runs use the artificial derivative, and how much of it.

    Attributes:
        artificial: which runs do; bool, ``(runs,)``.
        uses: how many that are.
        strength: share of the artificial derivative where it is used, 0 to 1.
    """

    artificial: Tensor
    uses: Literal["all", "some", "none"]
    strength: float

    def __init__(self, runs: int) -> None:
        self.use(torch.ones(runs, dtype=torch.bool))
        self.strength = 1.0

    def use(self, artificial: Tensor) -> None:
        """Sets which runs use the artificial derivative, from the next step on."""
        self.artificial = artificial
        self.uses = "all" if artificial.all() else "some" if artificial.any() else "none"

    def step(self, losses: Tensor) -> None:
        """At the end of an epoch, with its mean training losses ``(runs,)``."""


class Always(Handover):
    """The artificial derivative, in all runs from first to last."""


class Never(Handover):
    """The true one."""

    def __init__(self, runs: int) -> None:
        super().__init__(runs)
        self.use(torch.zeros(runs, dtype=torch.bool))


class Annealed(Handover):
    """From the artificial to the true derivative in equal steps, as ``gradscope.Annealing``.

    Args:
        runs: how many.
        epochs: that it takes.
    """

    def __init__(self, runs: int, epochs: int) -> None:
        super().__init__(runs)
        self.epochs, self.taken = epochs, 0

    def step(self, losses: Tensor) -> None:
        self.taken += 1
        self.strength = max(0.0, 1 - self.taken / self.epochs)


class Converting(Handover):
    """The paper's conversion rule, as ``gradscope.Conversion``, for each run by itself.

    A run changes over where the loss of an epoch exceeds ``factor`` times its best. The paper does
    not say which derivative comes first, nor whether a run may change back.

    Args:
        runs: how many.
        artificial_first: whether the artificial derivative comes first.
        back: whether a run that has changed over may do so again.
        factor: the paper's A.
    """

    def __init__(
        self, runs: int, artificial_first: bool = True, back: bool = True, factor: float = 1.035
    ) -> None:
        super().__init__(runs)
        self.use(torch.full((runs,), artificial_first))
        self.back, self.factor = back, factor
        self.best = torch.full((runs,), math.inf)
        self.may_change = torch.ones(runs, dtype=torch.bool)

    def step(self, losses: Tensor) -> None:
        changes = (losses > self.factor * self.best) & self.may_change
        self.use(self.artificial ^ changes)
        if not self.back:
            self.may_change = self.may_change & ~changes
        self.best = torch.fmin(self.best, losses)
