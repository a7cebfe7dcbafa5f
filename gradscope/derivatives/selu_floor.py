"""d selu(x)/dx := sign(d0) max(abs(d0), eps): a floor under the true d0 in its tail.

The tail of x < 0 has the slope scale alpha exp(x), which goes to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.derivatives.floored import Floored

# Klambauer et al.: Self-Normalizing Neural Networks, equation 14; the digits are torch's.
_ALPHA = 1.6732632423543772848170429916717
_SCALE = 1.0507009873554804934193349852946


@dataclass(frozen=True)
class SELUFloor(Floored):
    """The derivative of SELU, at least ``eps`` in magnitude."""

    name = "selu-floor"
    formula = "max(d0, eps), d0 = scale (1 if x > 0 else alpha exp(x))"
    source = "gradscope: the constant of sigmoid-beta as a floor"
    native = nn.SELU
    operators = ("selu", "selu_")

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.selu(x, inplace)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.elu_backward(gradient, _ALPHA, _SCALE, 1.0, False, x)
        return result
