"""The autograd function that every artificial derivative runs through, and when it may be quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gradscope.derivatives import Derivative

__all__ = ["ArtificialBackward", "differentiate", "is_eager", "widened"]


class ArtificialBackward(torch.autograd.Function):
    """Forward ``derivative.operator``, backward ``derivative.backward``.

    It keeps the input, which second derivatives are taken with respect to; the output only where
    the derivative reads it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, derivative: Derivative, strength: float | Tensor, *arguments: Any
    ) -> Tensor:
        return derivative.operator(x, **derivative.named(arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.derivative, ctx.strength, *ctx.arguments = inputs
        if ctx.derivative.keeps_output(ctx.strength):
            ctx.save_for_backward(x, output)
        else:
            ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, *output = ctx.saved_tensors
        # For a second derivative the output is computed again from x: the saved one would be
        # differentiated artificially.
        y = output[0] if output and not torch.is_grad_enabled() else None
        if x.dtype != gradient.dtype:  # autocast had the operator compute in a wider type
            x, y = x.to(gradient.dtype), None
        derivative = ctx.derivative
        found = derivative.backward(gradient, x, y, ctx.strength, **derivative.named(ctx.arguments))
        return (found, None, None, *[None] * len(ctx.arguments))


# Function.apply works out the signature of forward at each call, which takes longer than a small
# ReLU, and then comes to this.
_apply = super(torch.autograd.Function, ArtificialBackward).apply


def differentiate(
    derivative: Derivative, x: Tensor, strength: float | Tensor, arguments: tuple[Any, ...]
) -> Tensor:
    """``derivative.operator(x)`` with ``derivative.backward`` as its backward."""
    call: Any = _apply
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        call = ArtificialBackward.apply
    y: Tensor = call(x, derivative, strength, *arguments)
    return y


def is_eager(*tensors: Tensor) -> bool:
    """Whether values may be looked at and intermediate results overwritten.

    Not where the backward is itself differentiated, traced, or run for many tensors at once. Of
    those, ``is_grads_batched`` shows in the gradient alone.
    """
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(type(x) in (Tensor, torch.nn.Parameter) for x in tensors)
        and not torch._C._are_functorch_transforms_active()
        and not any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))
    )


def widened(x: Tensor) -> Tensor:
    """``x`` in float32 where its type is narrower, as torch's own kernels compute."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
