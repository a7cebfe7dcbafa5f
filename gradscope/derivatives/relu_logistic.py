"""d relu(x)/dx := sigma(k x), the logistic function as a smooth stand-in for ReLU's step.

Units that are dead (x < 0 on every sample) get a gradient again. Near x = 0 it passes about half
of what ReLU passes or blocks whole, so in a live deep stack it makes early gradients smaller, not
larger: there, let it be selective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.derivatives.logistic import logistic
from gradscope.derivatives.relu import OfReLU


@dataclass(frozen=True)
class ReLULogistic(OfReLU):
    """sigma(k x) in the backward of ReLU.

    Attributes:
        k: steepness, per unit of pre-activation; larger is closer to ReLU's own derivative. The
            paper has 1 in equation 8 and 3.5 in its experiment; 2 is decision 5.
    """

    name = "relu-logistic"
    formula = "sigma(k x)"
    source = "Hu, Zhang, Ge: Handling Vanishing Gradient Problem Using Artificial Derivative, eq. 8"

    k: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("k")

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return logistic(gradient, x, self.k)
