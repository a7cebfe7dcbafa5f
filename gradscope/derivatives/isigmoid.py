"""Isigmoid, the sigmoid with straight ends, and d isigmoid(x)/dx := min(s, 1 - s) in its middle.

s is sigma(x). Outside the middle the derivative is Isigmoid's own slope, alpha.

The paper's equations 5 and 6 are read literally, with its a = 0.01 and alpha = 1: the middle is
only the 0.02 around zero, and what is left is nearly the identity plus one half. Its text says the
original had "a = 0.01 and alpha = 7", which swaps the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives import Derivative
from gradscope.derivatives.logistic import logistic_of_magnitude


def isigmoid(x: Tensor, a: float, alpha: float) -> Tensor:
    """sigma(x) where abs(x) < a, and alpha (x -+ a) + sigma(+-a) beyond; of any shape."""
    middle = x.clamp(-a, a)
    return torch.add(torch.sigmoid(middle), x - middle, alpha=alpha)


class Isigmoid(nn.Module):
    """The activation of equation 5: sigma(x) where abs(x) < a, straight lines beyond.

    The output has the shape and type of the input.

    Args:
        a: half the width of the middle, of the pre-activation's unit.
        alpha: slope of the lines, per unit of pre-activation.

    Source: Hu, Zhang, Ge: Handling Vanishing Gradient Problem Using Artificial Derivative,
    equations 5 and 6, after Qin, Wang, Zou (2018).
    """

    def __init__(self, a: float = 0.01, alpha: float = 1.0) -> None:
        super().__init__()
        self.a, self.alpha = a, alpha

    def forward(self, input: Tensor) -> Tensor:
        return isigmoid(input, self.a, self.alpha)

    def extra_repr(self) -> str:
        return f"a={self.a}, alpha={self.alpha}"


@dataclass(frozen=True)
class IsigmoidMin(Derivative):
    """min(s, 1 - s) in the middle of Isigmoid's backward, alpha outside; it has no parameters."""

    name = "isigmoid-min"
    formula = "min(s, 1 - s) if abs(x) < a else alpha, s = sigma(x)"
    source = (
        "Hu, Zhang, Ge: Handling Vanishing Gradient Problem Using Artificial Derivative, "
        "eq. 6 and 11"
    )
    native = Isigmoid
    operators = ()
    arguments: ClassVar[Mapping[str, Any]] = {"a": 0.01, "alpha": 1.0}

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return isigmoid(x, **arguments)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        inside, outside = _parted(gradient, x, arguments["a"])
        # Not y: where the lines go far, its square overflows.
        middle: Tensor = torch.ops.aten.sigmoid_backward(inside, torch.sigmoid(x))
        return middle.add(outside, alpha=arguments["alpha"])

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        inside, outside = _parted(gradient, x, arguments["a"])
        return logistic_of_magnitude(inside, x, -1.0).add(outside, alpha=arguments["alpha"])


def _parted(gradient: Tensor, x: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """``gradient`` where abs(x) < a and zero beyond, and the rest of it.

    Faster than ``torch.where``. An infinite gradient of the middle comes out as NaN.
    """
    inside: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, -a, a)
    return inside, gradient - inside
