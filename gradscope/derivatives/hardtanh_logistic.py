"""d hardtanh(x)/dx := sigma(k (x - low)) sigma(k (high - x)), scaled to 1 in the middle.

Units that are stuck at either end get a gradient again. A bound may be infinite on one side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.logistic import logistic_window
from gradscope.derivatives.selective import Selective


@dataclass(frozen=True)
class HardtanhLogistic(Selective):
    """A logistic window from ``min_val`` to ``max_val`` in the backward of the hard tanh.

    Attributes:
        k: steepness of its sides, per unit of pre-activation; 2 is decision 22.
    """

    name = "hardtanh-logistic"
    formula = "sigma(k (x - low)) sigma(k (high - x)) / sigma(k (high - low) / 2)^2"
    source = "gradscope, after Hu, Zhang, Ge, eq. 8"
    native = nn.Hardtanh
    operators = ("hardtanh", "hardtanh_")
    arguments: ClassVar[Mapping[str, Any]] = {"min_val": -1.0, "max_val": 1.0}

    k: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("k")

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.hardtanh(x, inplace=inplace, **arguments)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.hardtanh_backward(
            gradient, x, arguments["min_val"], arguments["max_val"]
        )
        return result

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return logistic_window(gradient, x, self.k, arguments["min_val"], arguments["max_val"])
