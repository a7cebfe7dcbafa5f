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


class _LogisticReLUInPlace(torch.autograd.Function):
    """As above for ``relu_``: ``z`` is a copy of ``x`` from before it is overwritten."""

    @staticmethod
    def forward(x: Tensor, z: Tensor, k: float) -> Tensor:
        return torch.relu_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        x, z, ctx.k = inputs
        ctx.mark_dirty(x)
        ctx.save_for_backward(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        return torch.ops.aten.softplus_backward(gradient, z, ctx.k, _THRESHOLD), None, None


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
            paper has 1 in equation 8 and 3.5 in its experiment.
    """

    name = "relu-logistic"
    formula = "sigma(k x)"
    source = "Hu, Zhang, Ge: Handling Vanishing Gradient Problem Using Artificial Derivative, eq. 8"
    native = nn.ReLU
    module = LogisticReLU

    k: float = 3.5

    def __post_init__(self) -> None:
        if not 0 < self.k < float("inf"):
            raise PlanError(f"relu-logistic needs a positive, finite k, not {self.k}.")

    def __call__(self, x: Tensor, inplace: bool = False) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return torch.relu_(x) if inplace else torch.relu(x)
        if inplace:
            return _LogisticReLUInPlace.apply(x, x.clone(), self.k)  # type: ignore[no-any-return, no-untyped-call]
        return _LogisticReLU.apply(x, self.k)  # type: ignore[no-any-return, no-untyped-call]
