"""d leaky_relu(x)/dx := alpha + (1 - alpha) sigma(k x), alpha being the negative slope.

It lies between the two true slopes and joins them smoothly. A negative alpha has no flat part that
would need it, and the two slopes then differ in sign: there the derivative stays the true one,
which at an x that is not a number is torch's alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives import Derivative
from gradscope.derivatives.logistic import logistic


@dataclass(frozen=True)
class LeakyReLULogistic(Derivative):
    """alpha + (1 - alpha) sigma(k x) in the backward of the leaky ReLU.

    Attributes:
        k: steepness, per unit of pre-activation; 2 is decision 22.
    """

    name = "leaky-relu-logistic"
    formula = "alpha + (1 - alpha) sigma(k x)"
    source = "gradscope, after Hu, Zhang, Ge, eq. 8, which applies to any activation (section IV)"
    native = nn.LeakyReLU
    operators = ("leaky_relu", "leaky_relu_")
    arguments: ClassVar[Mapping[str, Any]] = {"negative_slope": 0.01}

    k: float = 2.0

    def __post_init__(self) -> None:
        self.require_positive("k")

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return nn.functional.leaky_relu(x, inplace=inplace, **arguments)

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        result: Tensor = torch.ops.aten.leaky_relu_backward(
            gradient, x, arguments["negative_slope"], False
        )
        return result

    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        alpha = arguments["negative_slope"]
        if alpha < 0:
            return self.true(gradient, x, y, **arguments)
        # From alpha g to g by sigma(k x) of the way, rounded once.
        return torch.add(logistic(gradient * (1 - alpha), x, self.k), gradient, alpha=alpha)
