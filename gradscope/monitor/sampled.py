"""What a monitor hands on at each step that it sampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradscope.training import Layout

__all__ = ["Sampled"]


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """One sampled step of a training.

    Attributes:
        step: its number, from 0.
        row: float32, one number for each of ``layout.columns``.
        layout: which number is which.
        losses: float32, of all steps since the sample before, this step's last; NaN where the
            monitor was given none.
    """

    step: int
    row: npt.NDArray[np.float32]
    layout: Layout
    losses: npt.NDArray[np.float32]
