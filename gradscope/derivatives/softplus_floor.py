"""d softplus(x)/dx := sign(d0) max(abs(d0), eps): a floor under the true d0 in its left tail.

The slope is sigma(beta x), which goes to zero on the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.floored import Floored


@dataclass(frozen=True)
class SoftplusFloor(Floored):
    """The derivative of Softplus, at least ``eps`` in magnitude."""

    name = "softplus-floor"
    formula = "max(sigma(beta x), eps)"
    source = "gradscope: the constant of sigmoid-beta as a floor"
    native = nn.Softplus
    operators = ("softplus",)
    arguments: ClassVar[Mapping[str, Any]] = {"beta": 1.0, "threshold": 20.0}

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.softplus(x, **arguments)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.softplus_backward(
            gradient, x, arguments["beta"], arguments["threshold"]
        )
        return result
