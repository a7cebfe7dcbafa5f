"""Which steps are sampled."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

__all__ = ["Schedule"]

# Durations of so many steps that were not sampled tell how long one takes.
_DURATIONS = 25


class Schedule:
    """Dense at the start, then every so many steps, or fewer where the budget says so.

    Args:
        every: steps between samples.
        dense: how many steps at the start are all sampled.
        overhead: share of the training's time after that start which the monitor may take; None
            for any.

    Attributes:
        next: number of the next step that is sampled.
        durations: seconds of the last steps that were not.
        step_seconds: what a step takes that is not sampled, the median of late ones.
    """

    def __init__(self, every: int, dense: int, overhead: float | None) -> None:
        self.every, self.overhead, self._dense = every, overhead, dense
        self.begin_at(0)
        self.durations: deque[float] = deque(maxlen=_DURATIONS)

    def is_start(self, step: int) -> bool:
        """Whether the step is sampled whatever it costs: the first one, and the dense start."""
        return step <= self._first or step < self._dense_until

    @property
    def step_seconds(self) -> float:
        return median(self.durations) if self.durations else math.nan

    def begin_at(self, step: int) -> None:
        """The first step, which is always sampled, has this number."""
        self.next, self._first, self._dense_until = step, step, step + self._dense

    def sampled(self, step: int) -> None:
        """The step has been sampled: the next one is, too, at the start, else one at its turn."""
        if step + 1 < self._dense_until:
            self.next = step + 1
        else:
            self.next = (step // self.every + 1) * self.every

    def spent(self, step: int, spent: float, elapsed: float, cost: float, seconds: float) -> None:
        """Puts the next sample off until it fits into the budget.

        Args:
            step: that is over.
            spent: seconds inside the monitor since the start.
            elapsed: seconds of the training since then, the monitor's included.
            cost: seconds that a sample takes.
            seconds: that a step takes which is not sampled.
        """
        if self.overhead is None or step + 1 < self._dense_until or not seconds > 0:
            return
        # At the next sample's end, what was spent is to be no more than its share of the time.
        steps = ((spent + cost) / self.overhead - elapsed) / seconds
        earliest = step + math.ceil(min(max(steps, 1), 1e9))
        if earliest > self.next:
            self.next = -(-earliest // self.every) * self.every
