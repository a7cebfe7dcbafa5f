"""d step(x)/dx := max(0, 1 - abs(x) / width) / width, a triangle around the jump.

Its area is 1, as high as step jumps: it is the slope of a jump that is smeared out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.derivatives.backward import widened
from gradscope.derivatives.surrogates import OfStep, triangle


@dataclass(frozen=True)
class StepTriangular(OfStep):
    """A triangular window in the backward of step.

    Attributes:
        width: how far it reaches on either side, per unit of pre-activation.
    """

    name = "step-triangular"
    formula = "max(0, 1 - abs(x) / width) / width"
    source = (
        "Bellec et al. (2018): Long short-term memory and learning-to-learn in networks of spiking "
        "neurons, eq. 5"
    )

    width: float = 1.0

    def __post_init__(self) -> None:
        self.require_positive("width")

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        slope = triangle(widened(x).abs(), self.width)
        return (gradient * slope).to(gradient.dtype)
