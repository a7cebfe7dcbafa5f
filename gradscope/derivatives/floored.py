"""A floor under the magnitude of the true derivative, its sign kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradscope.derivatives import Derivative
from gradscope.derivatives.backward import widened

__all__ = ["Floored"]


@dataclass(frozen=True)
class Floored(Derivative):
    """d1 = sign(d0) max(abs(d0), eps), d0 being the true derivative.

    It differs from the true derivative only where that is below ``eps``: in the flat tail. Where x
    is not a number or too large it is as torch's d0: GELU, SiLU and Mish have none at minus
    infinity, and ELU and SELU have their largest slope where x is not a number.

    Attributes:
        eps: the smallest magnitude, per unit of pre-activation, at most 1; 0.05 is decision 22.
        root: where d0 changes its sign, for activations that have a minimum; left of it d0 is
            negative also where it is too small for its type. None for those that are monotonic.
    """

    root: ClassVar[float | None] = None

    eps: float = 0.05

    def __post_init__(self) -> None:
        self.require_positive("eps", at_most=1)

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        z = widened(x)
        slope = self.true(torch.ones_like(z), z, None, **arguments)
        sign = slope if self.root is None else torch.where(slope == 0, z - self.root, slope)
        floored = torch.copysign(slope.abs().clamp_min(self.eps), sign.detach())
        return (gradient * floored).to(gradient.dtype)
