"""d silu(x)/dx := sign(d0) max(abs(d0), eps): a floor under the true d0 in its left tail.

SiLU falls left of its minimum at -1.28, so d0 and the floor are negative there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.backward import is_eager
from gradscope.derivatives.floored import Floored


@dataclass(frozen=True)
class SiLUFloor(Floored):
    """The derivative of SiLU, at least ``eps`` in magnitude."""

    name = "silu-floor"
    formula = "sign(d0) max(abs(d0), eps), d0 = s + x s (1 - s), s = sigma(x)"
    source = "gradscope: the constant of sigmoid-beta as a floor"
    native = nn.SiLU
    operators = ("silu", "silu_")
    root: ClassVar[float | None] = -1.2785

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.silu(x, inplace)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        if not is_eager(gradient, x):  # the kernel has neither a derivative nor a batched form
            s = torch.sigmoid(x)
            return gradient * (s + x * s * (1 - s))
        result: Tensor = torch.ops.aten.silu_backward(gradient, x)
        return result
