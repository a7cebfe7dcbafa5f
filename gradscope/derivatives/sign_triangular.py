"""d sign(x)/dx := 2 max(0, 1 - abs(x) / width) / width, a triangle around the jump.

Its area is 2, as high as sign jumps: it is the slope of a jump that is smeared out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.derivatives.backward import widened
from gradscope.derivatives.surrogates import OfSign, triangle


@dataclass(frozen=True)
class SignTriangular(OfSign):
    """A triangular window in the backward of sign.

    Attributes:
        width: how far it reaches on either side, per unit of pre-activation.
    """

    name = "sign-triangular"
    formula = "2 max(0, 1 - abs(x) / width) / width"
    source = (
        "Bellec et al. (2018): Long short-term memory and learning-to-learn in networks of spiking "
        "neurons, eq. 5"
    )

    width: float = 1.0

    def __post_init__(self) -> None:
        self.require_positive("width")

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        slope = 2 * triangle(widened(x).abs(), self.width)
        return (gradient * slope).to(gradient.dtype)
