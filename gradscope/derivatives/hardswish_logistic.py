"""d hardswish(x)/dx := e(x) sigma(k (x + 3)), e being the true slope, its left end held.

The true derivative is x/3 + 1/2 between -3 and 3, 0 below and 1 above; e is -1/2 below. Units
below -3 on every sample get a gradient again. It is negative, as the slope next to them is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.backward import widened
from gradscope.derivatives.logistic import logistic
from gradscope.derivatives.selective import Selective

_END = 3.0


@dataclass(frozen=True)
class HardswishLogistic(Selective):
    """A logistic side at -3 in the backward of hardswish; where x is above, nearly the true one.

    Attributes:
        k: steepness of the side, per unit of pre-activation; 2 is decision 22.
    """

    name = "hardswish-logistic"
    formula = "(max(x, -3)/3 + 1/2 if x < 3 else 1) sigma(k (x + 3))"
    source = "gradscope, after Hu, Zhang, Ge, eq. 8"
    native = nn.Hardswish
    operators = ("hardswish", "hardswish_")
    peak: ClassVar[float] = 1.5

    k: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("k")

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.hardswish(x, inplace)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.hardswish_backward(gradient, x)
        return result

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        z = widened(x)
        line = torch.where(z < _END, z.clamp_min(-_END) / 3 + 0.5, 1.0)
        return (logistic(line, z + _END, self.k) * gradient).to(gradient.dtype)
