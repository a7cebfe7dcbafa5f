"""d relu(x)/dx := 1 where x > 0, else slope: ReLU forward, the leaky ReLU backward.

Units that are dead (x < 0 on every sample) get a share of the gradient. Where a unit is on, its
gradient is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradscope.derivatives.relu import OfReLU


@dataclass(frozen=True)
class ReLULeaky(OfReLU):
    """1 where x > 0, else the slope, in the backward of ReLU.

    Attributes:
        slope: what passes where x <= 0 (dimensionless), at most 1.
    """

    name = "relu-leaky"
    formula = "1 if x > 0 else slope"
    source = "freegrad: forward ReLU, backward LeakyReLU"

    slope: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("slope", at_most=1)

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.leaky_relu_backward(gradient, x, self.slope, False)
        return result
