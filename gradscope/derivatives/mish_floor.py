"""d mish(x)/dx := sign(d0) max(abs(d0), eps): a floor under the true d0 in its left tail.

Mish falls left of its minimum at -1.19, so d0 and the floor are negative there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.backward import is_eager
from gradscope.derivatives.floored import Floored


@dataclass(frozen=True)
class MishFloor(Floored):
    """The derivative of Mish, at least ``eps`` in magnitude."""

    name = "mish-floor"
    formula = "sign(d0) max(abs(d0), eps), d0 = t + x sigma(x) (1 - t^2), t = tanh(softplus(x))"
    source = "gradscope: the constant of sigmoid-beta as a floor"
    native = nn.Mish
    operators = ("mish", "mish_")
    root: ClassVar[float | None] = -1.1924

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.mish(x, inplace)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        if not is_eager(gradient, x):  # the kernel has neither a derivative nor a batched form
            t = torch.tanh(nn.functional.softplus(x))
            return gradient * (t + x * torch.sigmoid(x) * (1 - t * t))
        result: Tensor = torch.ops.aten.mish_backward(gradient, x)
        return result
