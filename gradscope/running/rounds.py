"""When a step of the monitor ends, where several optimizers take turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

__all__ = ["Rounds"]


class Rounds:
    """A round ends when every optimizer that takes part has stepped since the last one.

    Those of a GAN step once each, those of a Wasserstein GAN five times and once. One that has not
    stepped while another did ``patience`` times takes no part until it steps again, so that an
    optimizer of a later phase, or one that is done, holds up nobody.

    Args:
        optimizers: that may take part, by their identities.
        patience: steps.
    """

    def __init__(self, optimizers: Collection[int], *, patience: int = 10) -> None:
        self.optimizers = frozenset(optimizers)
        self._active = set(optimizers)
        self._steps: Counter[int] = Counter()
        self._patience = patience

    def stepped(self, optimizer: int) -> bool:
        """Whether a round ends with this step."""
        self._active.add(optimizer)
        self._steps[optimizer] += 1
        if self._active > self._steps.keys() and self._steps[optimizer] < self._patience:
            return False
        self._active = set(self._steps)
        self._steps.clear()
        return True
