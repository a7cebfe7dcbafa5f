"""d gelu(x)/dx := sign(d0) max(abs(d0), eps): a floor under the true d0 in its left tail.

GELU falls left of its minimum at -0.75, so d0 and the floor are negative there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.floored import Floored


@dataclass(frozen=True)
class GELUFloor(Floored):
    """The derivative of GELU, at least ``eps`` in magnitude."""

    name = "gelu-floor"
    formula = "sign(d0) max(abs(d0), eps), d0 = Phi(x) + x phi(x)"
    source = "gradscope: the constant of sigmoid-beta as a floor"
    native = nn.GELU
    operators = ("gelu",)
    arguments: ClassVar[Mapping[str, Any]] = {"approximate": "none"}
    root: ClassVar[float | None] = -0.7518

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.gelu(x, **arguments)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.gelu_backward(
            gradient, x, approximate=arguments["approximate"]
        )
        return result
