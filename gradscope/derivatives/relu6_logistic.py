"""d relu6(x)/dx := sigma(k x) sigma(k (6 - x)), scaled to 1 in the middle: a smooth window.

Units that are dead (x < 0 on every sample) or stuck at 6 get a gradient again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.derivatives.logistic import logistic_window
from gradscope.derivatives.selective import Selective

_HIGH = 6.0


@dataclass(frozen=True)
class ReLU6Logistic(Selective):
    """A logistic window from 0 to 6 in the backward of ReLU6.

    Attributes:
        k: steepness of its sides, per unit of pre-activation; 2 is decision 22.
    """

    name = "relu6-logistic"
    formula = "sigma(k x) sigma(k (6 - x)) / sigma(3 k)^2"
    source = "gradscope, after Hu, Zhang, Ge, eq. 8"
    native = nn.ReLU6
    operators = ("relu6", "relu6_")

    k: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("k")

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.hardtanh(x, 0.0, _HIGH, inplace)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, 0.0, _HIGH)
        return result

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return logistic_window(gradient, x, self.k, 0.0, _HIGH)
