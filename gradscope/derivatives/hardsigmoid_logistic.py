"""d hardsigmoid(x)/dx := sigma(k (x + 3)) sigma(k (3 - x)) / 6, scaled to 1/6 in the middle.

Units that are stuck at 0 or 1 get a gradient again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.backward import is_eager
from gradscope.derivatives.logistic import logistic_window
from gradscope.derivatives.selective import Selective

_END = 3.0
_SLOPE = 1 / 6


@dataclass(frozen=True)
class HardsigmoidLogistic(Selective):
    """A logistic window from -3 to 3 in the backward of the hard sigmoid.

    Attributes:
        k: steepness of its sides, per unit of pre-activation; 2 is decision 22.
    """

    name = "hardsigmoid-logistic"
    formula = "sigma(k (x + 3)) sigma(k (3 - x)) / (6 sigma(3 k)^2)"
    source = "gradscope, after Hu, Zhang, Ge, eq. 8"
    native = nn.Hardsigmoid
    operators = ("hardsigmoid", "hardsigmoid_")
    peak: ClassVar[float] = _SLOPE

    k: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("k")

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.hardsigmoid(x, inplace)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        if not is_eager(gradient, x):  # the kernel has no derivative
            return torch.where(x.abs() < _END, gradient * _SLOPE, 0.0)
        result: Tensor = torch.ops.aten.hardsigmoid_backward(gradient, x)
        return result

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return logistic_window(gradient, x, self.k, -_END, _END, _SLOPE)
