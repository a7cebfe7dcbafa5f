"""d relu(x)/dx := sigma(k x), the logistic function as a smooth stand-in for ReLU's step.

Units that are dead (x < 0 on every sample) get a gradient again. Near x = 0 it passes about half
of what ReLU passes or blocks whole, so in a live deep stack it makes early gradients smaller, not
larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.derivatives import Derivative
from gradscope.errors import PlanError

# softplus_backward(g, x, k, threshold) is g * sigma(k x) as one native kernel, and g itself where
# k x is above the threshold. At 20 the two differ by 2e-9, less than float32 resolves.
_THRESHOLD = 20.0


class _LogisticReLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, k: float) -> Tensor:
        return torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.k = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.softplus_backward(gradient, x, ctx.k, _THRESHOLD), None


class LogisticReLU(nn.ReLU):
    """``nn.ReLU`` with an artificial derivative."""

    derivative: ReLULogistic

    def forward(self, input: Tensor) -> Tensor:
        return self.derivative(input, self.inplace)

    def extra_repr(self) -> str:
        return ", ".join(filter(None, (super().extra_repr(), repr(self.derivative))))


@dataclass(frozen=True)
class ReLULogistic(Derivative):
    """sigma(k x) in the backward of ReLU.

    Attributes:
        k: steepness, per unit of pre-activation; larger is closer to ReLU's own derivative. The
            paper has 1 in equation 8 and 3.5 in its experiment; 2 is decision 5.
    """

    name = "relu-logistic"
    formula = "sigma(k x)"
    source = "Hu, Zhang, Ge: Handling Vanishing Gradient Problem Using Artificial Derivative, eq. 8"
    native = nn.ReLU
    module = LogisticReLU

    k: float = 2.0

    def __post_init__(self) -> None:
        k: object = self.k
        # Plans are edited by hand: k may be anything.
        if not isinstance(k, (int, float)) or not 0 < k < float("inf"):
            raise PlanError(f"relu-logistic needs a positive, finite k, not {k!r}.")

    def __call__(self, x: Tensor, inplace: bool = False) -> Tensor:
        if not torch.is_grad_enabled():
            return torch.relu_(x) if inplace else torch.relu(x)
        if inplace:
            # The copy keeps the pre-activation, which the backward needs, from being overwritten.
            return x.copy_(_LogisticReLU.apply(x.clone(), self.k))  # type: ignore[no-untyped-call]
        return _LogisticReLU.apply(x, self.k)  # type: ignore[no-any-return, no-untyped-call]
