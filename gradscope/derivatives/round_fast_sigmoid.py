"""d round(x)/dx := 1 / (1 + k d)^2, the derivative of a fast sigmoid at each jump.

d, the distance of x to the next jump, is at most 1/2 step. Unlike a triangle it is nowhere zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.derivatives.surrogates import OfRound, fast_sigmoid


@dataclass(frozen=True)
class RoundFastSigmoid(OfRound):
    """1 / (1 + k d)^2 in the backward of round.

    Attributes:
        k: steepness, per step; 25 as in snntorch.
    """

    name = "round-fast-sigmoid"
    formula = "1 / (1 + k d)^2, d = distance to the next jump in steps"
    source = (
        "Zenke, Ganguli (2018): SuperSpike: Supervised Learning in Multilayer Spiking Neural "
        "Networks, section 2; snntorch.surrogate.fast_sigmoid"
    )

    k: float = 25.0

    def __post_init__(self) -> None:
        self.require_positive("k")

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        slope = fast_sigmoid(self.distance(x, arguments["decimals"]), self.k)
        return (gradient * slope).to(gradient.dtype)
