"""What a layer was given: how large it is, and how far apart its features are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gradscope.profile import statistics
from gradscope.profile.statistics import wide
from gradscope.profile.sums import PEAKS, Place, Sums, in_units

__all__ = ["given", "input_numbers", "input_sums"]

# To the first operand of these, the product of the other two is added.
_SUMS = ("addmm", "baddbmm")
_PRODUCTS = ("matmul", "mm", "bmm", *_SUMS)


def given(
    layer: nn.Module | str, tensors: Iterable[Tensor], is_weight: Callable[[Tensor], bool]
) -> tuple[Tensor, int] | None:
    """The input of a layer, and which axis of it counts features.

    Args:
        layer: the module, or the name of the function.
        tensors: what it is called on, in order.
        is_weight: whether a tensor is made of parameters alone.

    Returns:
        None where it is called on weights alone.
    """
    operands = list(tensors)
    x = next((each for each in operands if not is_weight(each)), None)
    if x is None:
        return None
    axis = x.ndim - 1
    if isinstance(layer, _ConvNd):
        axis -= len(layer.kernel_size)
    elif isinstance(layer, str) and layer.startswith("conv"):
        axis -= int(layer[-2])
    elif layer in _PRODUCTS and operands[layer in _SUMS] is not x:
        # The weight stands on the left.
        axis -= 1
    return x, max(axis, 0)


def input_sums(x: Tensor, axis: int, place: Place | None) -> Sums:
    """What is summed of the input ``x`` of a layer, real and not empty; ``axis`` counts features.

    ``place`` says of which axis of ``x`` this process holds a part.
    """
    squares = statistics.by_unit(x, axis, lambda part: part.to(wide(part)).square())
    highest = statistics.peak(x, finite=statistics.surely_finite(squares.sum()))
    return {
        "squares": in_units(squares, axis, place),
        "count": torch.full_like(highest, x.numel()),
        PEAKS: highest,
    }


def input_numbers(sums: Sums) -> dict[str, Tensor]:
    """The numbers that the sums over the whole input make; see ``LayerInput``."""
    if "squares" not in sums:
        return {}
    squares = sums["squares"]
    nonzero = squares[squares != 0].sqrt()
    middle = nonzero.quantile(0.5) if len(nonzero) else squares.new_full((), math.nan)
    return {
        "input_rms": (squares.sum() / sums["count"]).sqrt(),
        "input_peak": sums[PEAKS].amax(),
        "feature_spread": squares.amax().sqrt() / middle,
    }
