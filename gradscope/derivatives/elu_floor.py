"""d elu(x)/dx := sign(d0) max(abs(d0), eps): a floor under the true d0 in its tail.

The tail of x < 0 has the slope alpha exp(x), which goes to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.floored import Floored


@dataclass(frozen=True)
class ELUFloor(Floored):
    """The derivative of ELU, at least ``eps`` in magnitude."""

    name = "elu-floor"
    formula = "max(d0, eps), d0 = 1 if x > 0 else alpha exp(x)"
    source = "gradscope: the constant of sigmoid-beta as a floor"
    native = nn.ELU
    operators = ("elu", "elu_")
    arguments: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.elu(x, inplace=inplace, **arguments)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.elu_backward(
            gradient, arguments["alpha"], 1.0, 1.0, False, x
        )
        return result
