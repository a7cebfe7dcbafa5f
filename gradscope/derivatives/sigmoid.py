"""What the artificial derivatives of the sigmoid share: the operator and its own derivative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.selective import SATURATED, Selective

__all__ = ["OfSigmoid"]


@dataclass(frozen=True)
class OfSigmoid(Selective):
    """An artificial derivative of the sigmoid."""

    native = nn.Sigmoid
    operators = ("sigmoid", "sigmoid_", "special_expit")
    peak: ClassVar[float] = 0.25
    reads_output: ClassVar[bool] = True

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return torch.sigmoid_(x) if inplace else torch.sigmoid(x)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.sigmoid_backward(
            gradient, torch.sigmoid(x) if y is None else y
        )
        return result

    def idle(self, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return self.smallest(x.abs()) > _SATURATION


def _saturation() -> float:
    """Where y (1 - y) is 1 % of its largest value, one quarter."""
    y = (1 + math.sqrt(1 - SATURATED)) / 2
    return math.log(y / (1 - y))


_SATURATION = _saturation()
