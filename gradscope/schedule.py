"""Schedules of artificial derivatives during training: annealing, and the paper's conversion rule.

Both start with the artificial derivative; annealing hands over to the true one for good, the rule
changes over whenever it fires. Armed the other way it would never fire on a run that is stuck: its
loss lies on a plateau, and does not get worse.
"""

from __future__ import annotations

import math
from typing import Any

from gradscope.errors import UsageError
from gradscope.patch import Patch

__all__ = ["Annealing", "Conversion"]


class Annealing:
    """Hands over from the artificial to the true derivative in equal steps.

        annealing = Annealing(patch, steps=1000)
        for batch in batches:
            ...; optimizer.step(); annealing.step()

    The artificial derivative gets idle units going while weights are far from good; a biased
    gradient would keep training from settling later, and the last steps have none.

    Attributes:
        patch: what is annealed.
        steps: how many calls of ``step`` it takes from strength 1 to 0.
        taken: how many there were.
    """

    def __init__(self, patch: Patch, steps: int, sites: str | list[str] | None = None) -> None:
        """Sets the strength to 1.

        Args:
            patch: with artificial derivatives.
            steps: from strength 1 to 0, at least 1.
            sites: names or patterns of the sites that are meant; all by default.

        Raises:
            UsageError: ``steps`` is no positive whole number, or there is nothing to anneal.
        """
        count: object = steps
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"Annealing takes a whole number of steps, 1 or more, not {steps!r}.")
        self.patch, self.steps, self.sites, self.taken = patch, steps, sites, 0
        patch.set(1.0, sites)

    @property
    def strength(self) -> float:
        """Share of the artificial derivative now, 1 to 0 (dimensionless)."""
        return 1 - min(self.taken, self.steps) / self.steps

    def step(self) -> float:
        """After each step of the optimizer: sets the next strength, and returns it."""
        self.taken += 1
        if self.taken <= self.steps:
            self.patch.set(self.strength, self.sites)
        return self.strength

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a saved run left off."""
        self.taken = int(state["taken"])
        self.patch.set(self.strength, self.sites)


class Conversion:
    """The paper's conversion rule: the two derivatives take turns.

        conversion = Conversion(patch)
        for epoch in range(epochs):
            ...; conversion.step(mean_training_loss)

    At the end of an epoch whose training loss exceeds ``factor`` times the best epoch's so far, the
    derivative in use gives way to the other (Hu, Zhang, Ge, section III.A, with A = 1.035 as the
    factor). The paper does not say which comes first; here it is the artificial one.

    Attributes:
        patch: what is switched.
        factor: the paper's A, above 1 (dimensionless).
        best: the least training loss of an epoch so far, infinity before the first.
        artificial: whether the artificial derivative is in use.
    """

    def __init__(
        self, patch: Patch, factor: float = 1.035, sites: str | list[str] | None = None
    ) -> None:
        """Starts with the artificial derivative.

        Args:
            patch: with artificial derivatives.
            factor: see above.
            sites: names or patterns of the sites that are meant; all by default.

        Raises:
            UsageError: the factor is not a finite number above 1, or there is nothing to switch.
        """
        given: object = factor
        if not isinstance(given, (int, float)) or not 1 < given < math.inf:
            raise UsageError(f"The factor of the conversion rule is above 1, not {factor!r}.")
        self.patch, self.factor, self.sites = patch, float(factor), sites
        self.best, self.artificial = math.inf, True
        patch.set(1.0, sites)

    def step(self, loss: float) -> bool:
        """At the end of each epoch.

        Args:
            loss: the epoch's mean training loss. One that is not a number is no reason to switch.

        Returns:
            Whether the artificial derivative is in use in the next epoch.
        """
        loss = float(loss)
        # As best times factor, also for losses below zero.
        if loss > self.best + (self.factor - 1) * abs(self.best):
            self.artificial = not self.artificial
            self.patch.set(float(self.artificial), self.sites)
        if loss < self.best:
            self.best = loss
        return self.artificial

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "artificial": self.artificial}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a saved run left off."""
        self.best, self.artificial = float(state["best"]), bool(state["artificial"])
        self.patch.set(float(self.artificial), self.sites)
