"""d sigmoid(x)/dx := min(y, 1 - y), the true y (1 - y) divided by max(y, 1 - y).

It doubles the true derivative at x = 0, where it is one half, and hardly changes it where the unit
is saturated: it slows the decay of a gradient over many layers, and does not wake saturated units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.derivatives import Derivative


class _MinSigmoid(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, y = ctx.saved_tensors
        if torch.is_grad_enabled():
            # For a second derivative: the saved y would be differentiated artificially again.
            y = torch.sigmoid(x)
        return gradient * torch.minimum(y, 1 - y)


class MinSigmoid(nn.Sigmoid):
    """``nn.Sigmoid`` with an artificial derivative."""

    derivative: SigmoidMin

    def forward(self, input: Tensor) -> Tensor:
        return self.derivative(input)

    def extra_repr(self) -> str:
        return repr(self.derivative)


@dataclass(frozen=True)
class SigmoidMin(Derivative):
    """min(y, 1 - y) in the backward of the sigmoid; it has no parameters."""

    name = "sigmoid-min"
    formula = "min(y, 1 - y)"
    source = (
        "Hu, Zhang, Ge: Handling Vanishing Gradient Problem Using Artificial Derivative, eq. 11"
    )
    native = nn.Sigmoid
    module = MinSigmoid

    def __call__(self, x: Tensor, inplace: bool = False) -> Tensor:
        if inplace:
            # nn.Sigmoid has no in-place form; kept out rather than silently made a copy.
            raise NotImplementedError("sigmoid-min has no in-place form")
        return _MinSigmoid.apply(x)  # type: ignore[no-any-return, no-untyped-call]
