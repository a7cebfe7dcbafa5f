"""d tanh(x)/dx := min(1, 2 (1 - abs(y))), the paper's construction for the sigmoid carried over.

The true 1 - y^2 is (1 - abs(y)) (1 + abs(y)): this one is never below it, at most twice as large,
and never above 1. It is computed as min(1, 4 sigma(-2 abs(x))), the same number, which does not
lose its digits where abs(y) is near 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.backward import is_eager, widened
from gradscope.derivatives.logistic import logistic_of_magnitude
from gradscope.derivatives.selective import Selective


@dataclass(frozen=True)
class TanhMin(Selective):
    """min(1, 2 (1 - abs(y))) in the backward of tanh."""

    name = "tanh-min"
    formula = "min(1, 2 (1 - abs(y)))"
    source = "gradscope, after Hu, Zhang, Ge, eq. 11"
    native = nn.Tanh
    operators = ("tanh", "tanh_")
    reads_output: ClassVar[bool] = True

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return torch.tanh_(x) if inplace else torch.tanh(x)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.tanh_backward(gradient, torch.tanh(x) if y is None else y)
        return result

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        z = widened(x)
        slope = logistic_of_magnitude(torch.full_like(z, 4.0), z, -2.0)
        if is_eager(gradient, z):
            return slope.clamp_max_(1).mul_(gradient).to(gradient.dtype)
        return (slope.clamp_max(1) * gradient).to(gradient.dtype)
