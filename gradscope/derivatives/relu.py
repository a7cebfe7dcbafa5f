"""What the artificial derivatives of ReLU share: the operator and its own derivative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.derivatives.selective import Selective

__all__ = ["OfReLU"]


@dataclass(frozen=True)
class OfReLU(Selective):
    """An artificial derivative of ReLU."""

    native = nn.ReLU
    operators = ("relu", "relu_")

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return torch.relu_(x) if inplace else torch.relu(x)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        # torch compares the output with zero; the input compares alike, and is kept anyway.
        result: Tensor = torch.ops.aten.threshold_backward(gradient, x, 0)
        return result

    def idle(self, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return self.largest(x) <= 0
