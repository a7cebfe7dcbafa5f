"""d sigmoid(x)/dx := min(y, 1 - y), the true y (1 - y) divided by max(y, 1 - y).

It doubles the true derivative at x = 0, where it is one half, and hardly changes it where the unit
is saturated: it slows the decay of a gradient over many layers, and does not wake saturated units.
It is computed as sigma(-abs(x)), the same number, which does not lose its digits where y is near 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.derivatives.logistic import logistic_of_magnitude
from gradscope.derivatives.sigmoid import OfSigmoid


@dataclass(frozen=True)
class SigmoidMin(OfSigmoid):
    """min(y, 1 - y) in the backward of the sigmoid."""

    name = "sigmoid-min"
    formula = "min(y, 1 - y)"
    source = (
        "Hu, Zhang, Ge: Handling Vanishing Gradient Problem Using Artificial Derivative, eq. 11"
    )

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return logistic_of_magnitude(gradient, x, -1.0)
