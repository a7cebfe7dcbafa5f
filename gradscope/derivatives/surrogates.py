"""What the surrogates of functions without a slope share: sign, step and round.

Their true derivative is zero wherever there is one, so at a strength below 1 the surrogate is only
scaled down, and at 0 nothing flows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradscope.derivatives import Derivative
from gradscope.derivatives.backward import widened

__all__ = ["OfRound", "OfSign", "OfStep", "fast_sigmoid", "straight_through", "triangle"]


def triangle(distance: Tensor, width: float) -> Tensor:
    """max(0, 1 - distance / width) / width, of area 1 over both sides; ``distance`` >= 0."""
    return (1 - distance / width).clamp_min(0) / width


def fast_sigmoid(distance: Tensor, k: float) -> Tensor:
    """1 / (1 + k distance)^2; ``distance`` >= 0."""
    return (1 + k * distance).square().reciprocal()


def straight_through(gradient: Tensor, x: Tensor, clip: float | None) -> Tensor:
    """The gradient where abs(x) <= clip, or anywhere if there is no clip; 0 elsewhere."""
    return gradient if clip is None else torch.where(x.abs() > clip, 0.0, gradient)


class _Jumps(Derivative):
    """A surrogate of a function that is flat between jumps."""

    native = None

    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        return torch.zeros_like(gradient)


class OfSign(_Jumps):
    """A surrogate of ``torch.sign``, which jumps by 2 at zero."""

    operators = ("sign", "sign_")

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        return x.sign_() if inplace else torch.sign(x)


class OfStep(_Jumps):
    """A surrogate of ``torch.heaviside``, which jumps by 1 at zero.

    ``values``, what the step is at zero itself, is 0 where it is left out.
    """

    operators = ("heaviside", "heaviside_")
    arguments: ClassVar[Mapping[str, Any]] = {"values": None}

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        values = arguments.get("values")
        if values is None:
            values = torch.zeros((), dtype=x.dtype, device=x.device)
        return x.heaviside_(values) if inplace else torch.heaviside(x, values)


class OfRound(_Jumps):
    """A surrogate of ``torch.round``, which jumps half-way between any two neighbours."""

    operators = ("round", "round_")
    arguments: ClassVar[Mapping[str, Any]] = {"decimals": 0}

    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        if not arguments.get("decimals"):
            return x.round_() if inplace else torch.round(x)
        return x.round_(**arguments) if inplace else torch.round(x, **arguments)

    def distance(self, x: Tensor, decimals: int) -> Tensor:
        """To the next jump, in steps: 0 at a jump, 1/2 at the result and at infinity."""
        z = widened(x) * 10.0**decimals
        return torch.where(z.isinf(), 0.5, (z - z.floor() - 0.5).abs())
