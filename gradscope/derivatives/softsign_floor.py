"""d softsign(x)/dx := sign(d0) max(abs(d0), eps): a floor under the true d0 in both its tails.

The slope 1 / (1 + abs(x))^2 goes to zero on both sides, though slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradscope.derivatives.backward import widened
from gradscope.derivatives.floored import Floored


@dataclass(frozen=True)
class SoftsignFloor(Floored):
    """The derivative of Softsign, at least ``eps`` in magnitude."""

    name = "softsign-floor"
    formula = "max(1 / (1 + abs(x))^2, eps)"
    source = "gradscope: the constant of sigmoid-beta as a floor"
    native = nn.Softsign
    operators = ("softsign",)

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.softsign(x)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return (widened(gradient) / (1 + widened(x).abs()).square()).to(gradient.dtype)
