"""d sign(x)/dx := 1, where abs(x) <= clip: the gradient goes straight through.

It takes no notice of how far x is from the jump, unless it is clipped. Where x is not a number the
gradient still goes through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.derivatives.surrogates import OfSign, straight_through


@dataclass(frozen=True)
class SignStraightThrough(OfSign):
    """1 in the backward of sign.

    Attributes:
        clip: the largest magnitude of x that a gradient goes through, as in Hubara et al.:
            Binarized Neural Networks, equation 4; None for all.
    """

    name = "sign-straight-through"
    formula = "1 if abs(x) <= clip else 0"
    source = (
        "Bengio, Leonard, Courville: Estimating or Propagating Gradients Through Stochastic "
        "Neurons for Conditional Computation, section 4"
    )

    clip: float | None = None

    def __post_init__(self) -> None:
        if self.clip is not None:
            self.require_positive("clip")

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return straight_through(gradient, x, self.clip)
