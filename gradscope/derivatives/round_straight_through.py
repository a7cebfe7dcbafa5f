"""d round(x)/dx := 1: the gradient goes straight through.

On the scale of many steps this is the slope of the staircase. Where x is not a number the
gradient still goes through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.derivatives.surrogates import OfRound


@dataclass(frozen=True)
class RoundStraightThrough(OfRound):
    """1 in the backward of round; it has no parameters."""

    name = "round-straight-through"
    formula = "1"
    source = (
        "Bengio, Leonard, Courville: Estimating or Propagating Gradients Through Stochastic "
        "Neurons for Conditional Computation, section 4"
    )

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return gradient
