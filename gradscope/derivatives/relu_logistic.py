"""d relu(x)/dx := sigma(k x), the logistic function as a smooth stand-in for ReLU's step.

Units that are dead (x < 0 on every sample) get a gradient again. Near x = 0 it passes about half
of what ReLU passes or blocks whole, so in a live deep stack it makes early gradients smaller, not
larger. By default it is selective, for dead units alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradscope.derivatives.logistic import logistic
from gradscope.derivatives.relu import OfReLU


@dataclass(frozen=True)
class ReLULogistic(OfReLU):
    """sigma(k x) in the backward of ReLU.

    Attributes:
        k: steepness, per unit of pre-activation; larger is closer to ReLU's own derivative. The
            paper has 1 in equation 8 and 3.5 in its experiment; decision 25 is for 1.
        selective: as decision 25 found; the paper's is not.
    """

    name = "relu-logistic"
    formula = "sigma(k x)"
    source = "Hu, Zhang, Ge: Handling Vanishing Gradient Problem Using Artificial Derivative, eq. 8"

    k: float = 1.0
    selective: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("k")

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return logistic(gradient, x, self.k)
