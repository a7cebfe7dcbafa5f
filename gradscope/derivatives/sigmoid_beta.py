"""d sigmoid(x)/dx := y (1 - y) + beta, the true derivative raised by a constant.

It wakes saturated units: however far out they are, beta of the gradient comes through. It is the
exact derivative of sigma(x) + beta x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradscope.derivatives.backward import is_eager
from gradscope.derivatives.sigmoid import OfSigmoid


@dataclass(frozen=True)
class SigmoidBeta(OfSigmoid):
    """y (1 - y) + beta in the backward of the sigmoid.

    Attributes:
        beta: what is added, per unit of pre-activation, at most 1; 0.05 in the source.
    """

    name = "sigmoid-beta"
    formula = "y (1 - y) + beta"
    source = (
        "AI Vietnam, All-in-One Course: Vanishing Problem, Other Methods (A new approach for the "
        "vanishing gradient problem on sigmoid activation), algorithm 1"
    )

    beta: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("beta", at_most=1)

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        true = self.true(gradient, x, y)
        if is_eager(gradient, x):
            return true.add_(gradient, alpha=self.beta)
        return torch.add(true, gradient, alpha=self.beta)

    def keeps_output(self, strength: float | Tensor) -> bool:
        return True
