"""What is known of the activation modules: where they are dead, where they are saturated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["has_dead_zone", "is_activation", "saturation"]

# A bounded activation is saturated where its derivative is below this share of its largest one.
SATURATED = 0.01

_ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.GLU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.LogSoftmax,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softmax,
    nn.Softmax2d,
    nn.Softmin,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)

# Zero output and zero derivative for every negative input.
_DEAD_ZONE: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6)


def _sigmoid_slope(module: nn.Module, z: Tensor) -> Tensor:
    y = torch.sigmoid(z)
    return 4 * y * (1 - y)


def _tanh_slope(module: nn.Module, z: Tensor) -> Tensor:
    return 1 - torch.tanh(z).square()


def _softsign_slope(module: nn.Module, z: Tensor) -> Tensor:
    return (1 + z.abs()).pow(-2)


def _window_slope(low: float, high: float) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda module, z: ((z > low) & (z < high)).to(z.dtype)


def _hardtanh_slope(module: nn.Module, z: Tensor) -> Tensor:
    return _window_slope(module.min_val, module.max_val)(module, z)  # type: ignore[arg-type]


# Derivative over its maximum, for the activations bounded on both sides. Of ReLU6, which stands
# before Hardtanh, its base class, only the upper side: the lower one is counted as dead.
_SLOPES: dict[type[nn.Module], Callable[[nn.Module, Tensor], Tensor]] = {
    nn.Sigmoid: _sigmoid_slope,
    nn.Tanh: _tanh_slope,
    nn.Softsign: _softsign_slope,
    nn.Hardsigmoid: _window_slope(-3, 3),
    nn.ReLU6: _window_slope(float("-inf"), 6),
    nn.Hardtanh: _hardtanh_slope,
}


def is_activation(module: nn.Module) -> bool:
    """Whether the module is a non-linearity of torch's."""
    return isinstance(module, _ACTIVATIONS)


def has_dead_zone(kind: type[nn.Module]) -> bool:
    """Whether negative inputs leave neither output nor gradient."""
    return issubclass(kind, _DEAD_ZONE)


def saturation(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """For a bounded activation, the function from pre-activations to a mask of saturated elements.

    An element is saturated where |f'(z)| is below 1 % of the largest |f'|. Computed in float32 at
    least, whatever the type of ``z``; the mask has its shape. None for unbounded activations.
    """
    for kind, slope in _SLOPES.items():
        if isinstance(module, kind):

            def mask(z: Tensor, slope: Callable[[nn.Module, Tensor], Tensor] = slope) -> Tensor:
                return slope(module, z.to(torch.promote_types(z.dtype, torch.float32))) < SATURATED

            return mask
    return None
