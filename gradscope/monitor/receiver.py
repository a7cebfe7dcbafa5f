"""Who is told what a sampler finds."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from gradscope.monitor.sampled import Sampled
from gradscope.training import Layout

__all__ = ["Receiver"]


class Receiver(Protocol):
    """In the order of a training; see ``Monitor``."""

    def begins(self) -> int:
        """The training begins; returns the number of its first step."""

    def lays_out(self, layout: Layout) -> None:
        """Rows from now on have this layout."""

    def takes_losses(self, first: int, losses: npt.NDArray[np.float32]) -> None:
        """The losses of consecutive steps."""

    def takes(self, sampled: Sampled) -> None:
        """A row has arrived; its losses have been taken."""

    def failed(self, error: Exception) -> None:
        """Something went wrong in a hook."""

    def warns(self, message: str) -> None: ...
