"""d sign(x)/dx := 1 / (1 + k abs(x))^2, the derivative of a fast sigmoid at the jump.

Unlike a triangle it is nowhere zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.derivatives.backward import widened
from gradscope.derivatives.surrogates import OfSign, fast_sigmoid


@dataclass(frozen=True)
class SignFastSigmoid(OfSign):
    """1 / (1 + k abs(x))^2 in the backward of sign.

    Attributes:
        k: steepness, per unit of pre-activation; 25 as in snntorch.
    """

    name = "sign-fast-sigmoid"
    formula = "1 / (1 + k abs(x))^2"
    source = (
        "Zenke, Ganguli (2018): SuperSpike: Supervised Learning in Multilayer Spiking Neural "
        "Networks, section 2; snntorch.surrogate.fast_sigmoid"
    )

    k: float = 25.0

    def __post_init__(self) -> None:
        self.require_positive("k")

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        slope = fast_sigmoid(widened(x).abs(), self.k)
        return (gradient * slope).to(gradient.dtype)
