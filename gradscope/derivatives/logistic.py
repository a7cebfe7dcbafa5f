"""The logistic function of the backward pass, as one kernel; windows made of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.derivatives.backward import is_eager, widened

__all__ = ["logistic", "logistic_of_magnitude", "logistic_window"]

# softplus_backward(g, x, k, threshold) is g sigma(k x) as one native kernel, and g itself where k x
# is above the threshold. At 40 the two differ by 4e-18, less than float64 resolves, and exp(40)
# overflows in no type that the kernel computes in.
_THRESHOLD = 40.0


def logistic(gradient: Tensor, x: Tensor, k: float) -> Tensor:
    """``gradient`` sigma(k x), of their common shape; k may be negative."""
    result: Tensor = torch.ops.aten.softplus_backward(gradient, x, k, _THRESHOLD)
    return result


def logistic_of_magnitude(gradient: Tensor, x: Tensor, k: float) -> Tensor:
    """``gradient`` sigma(k abs(x)), of their common shape."""
    if not is_eager(gradient, x):
        return logistic(gradient, x.abs(), k)
    result = x.abs()
    torch.ops.aten.softplus_backward.grad_input(gradient, result, k, _THRESHOLD, grad_input=result)
    return result


def logistic_window(
    gradient: Tensor, x: Tensor, k: float, low: float, high: float, plateau: float = 1.0
) -> Tensor:
    """``gradient`` times a smooth window between ``low`` and ``high``, ``plateau`` high.

    The window is sigma(k (x - low)) sigma(k (high - x)), scaled to be ``plateau`` in its middle,
    which is its highest point.
    """
    z, upstream = widened(x), widened(gradient)
    middle = 1 / (1 + math.exp(-k * (high - low) / 2))
    window = logistic(logistic(upstream, z - low, k), z - high, -k)
    return (window * (plateau / middle**2)).to(gradient.dtype)
