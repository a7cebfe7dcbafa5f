"""d round(x)/dx := 4 max(0, 1/2 - d), a triangle around each jump.

d, the distance of x to the next jump, is at most 1/2 step. The mean over a step is 1, as of the
staircase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.derivatives.surrogates import OfRound, triangle


@dataclass(frozen=True)
class RoundTriangular(OfRound):
    """A triangular window in the backward of round; it has no parameters."""

    name = "round-triangular"
    formula = "4 max(0, 1/2 - d), d = distance to the next jump in steps"
    source = (
        "Bellec et al. (2018): Long short-term memory and learning-to-learn in networks of spiking "
        "neurons, eq. 5"
    )

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        slope = triangle(self.distance(x, arguments["decimals"]), 0.5)
        return (gradient * slope).to(gradient.dtype)
