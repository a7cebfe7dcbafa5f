"""Calling artificial derivatives and the operators they stand in for, in tests of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gradscope.derivatives import Derivative, derivative
from tests.gradscope.derivatives.cases import CASES, Case

ONE_OF_EACH = tuple({case.name: case for case in reversed(CASES)}.values())
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 6e-8, 5e-324, 3e38, -88.5, 17.0]


def made(case: Case, **parameters: Any) -> Derivative:
    return derivative(case.name, {**case.parameters, **parameters})


def called(
    case: Case, x: Tensor, inplace: bool = False, strength: float | Tensor = 1.0, **parameters: Any
) -> Tensor:
    arguments = {
        name: value.to(x) if isinstance(value, Tensor) else value
        for name, value in case.arguments.items()
    }
    return made(case, **parameters)(x, inplace=inplace, strength=strength, **arguments)


def gradient(case: Case, x: Tensor, upstream: Tensor | None = None, **settings: Any) -> Tensor:
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = called(case, leaf, **settings)
    return torch.autograd.grad(y, leaf, torch.ones_like(y) if upstream is None else upstream)[0]


def native_gradient(case: Case, x: Tensor, upstream: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    try:
        return torch.autograd.grad(case.native(leaf, False), leaf, upstream)[0]
    except RuntimeError:  # torch has no derivative of heaviside
        return torch.zeros_like(x)


def laid_out(shape: list[int], dtype: torch.dtype, layout: str, seed: int) -> Tensor:
    """Random values among special ones, in a memory layout that the shape allows."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 5
    special = torch.tensor(SPECIAL, dtype=torch.float64)
    chosen = torch.randint(3 * len(special), shape, generator=generator)
    x = torch.where(chosen < len(special), special[chosen % len(special)], x).to(dtype)
    if layout == "channels_last" and x.ndim == 4:
        return x.to(memory_format=torch.channels_last)
    if layout == "reversed":
        order = tuple(reversed(range(x.ndim)))
        return x.permute(order).contiguous().permute(order)
    if layout == "strided" and x.ndim:
        return torch.stack([x, x], dim=-1)[..., 0]
    if layout == "expanded" and x.ndim and x.shape[0]:
        return x[:1].expand(3, *x.shape[1:])
    return x


def assert_same(one: Tensor, other: Tensor) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.stride() == other.stride()
    width = {8: torch.int64, 4: torch.int32, 2: torch.int16}[one.element_size()]
    assert torch.equal(one.detach().view(width), other.detach().view(width))
