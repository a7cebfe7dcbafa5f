"""What is known of torch's operators, as modules and as functions.

Where activations are dead or saturated; which calls are layers, norms, look-ups, attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from gradscope.records import Role

__all__ = [
    "Call",
    "called",
    "has_dead_zone",
    "is_activation",
    "kind_of",
    "over_last_of_many",
    "role_of",
    "saturated_output",
    "saturation",
]

Mask = Callable[[Tensor], Tensor]

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

_NORMALISATIONS: tuple[type[nn.Module], ...] = (
    _BatchNorm,
    _InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)

# Layers even where their weights are elsewhere, as parametrizations keep them.
_LAYERS: tuple[type[nn.Module], ...] = (
    _ConvNd,
    nn.Bilinear,
    nn.Linear,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

# Functions of torch, torch.nn.functional and tensor methods, by name without a trailing underscore.
_ACTIVATION_CALLS = frozenset({
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus",
    "softsign", "tanh", "sigmoid", "hardtanh", "hardsigmoid", "hardswish", "hardshrink",
    "softshrink", "tanhshrink", "threshold", "logsigmoid", "prelu", "rrelu", "glu", "softmax",
    "log_softmax", "softmin",
})  # fmt: skip
_ALIASES = {
    "special_expit": "sigmoid",
    "log_sigmoid": "logsigmoid",
    "_threshold": "threshold",
    "clamp_min": "clamp",
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
}
_LAYER_CALLS = frozenset({
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d",
})  # fmt: skip
# Layers only where an operand is a parameter.
_PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm"})
_NORMALISATION_CALLS = frozenset({
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm",
})  # fmt: skip
_EMBEDDING_CALLS = frozenset({"embedding", "embedding_bag"})

# Zero output and zero derivative for every negative input.
_DEAD_ZONE: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function that makes a site.

    Attributes:
        operator: the function's name.
        role: what stands at the site.
        z: what it was called on.
        dead_zone: whether negative inputs leave neither output nor gradient.
        mask: as :func:`saturation`.
        dim: over which dimension a softmax goes.
    """

    operator: str
    role: Role
    z: Tensor
    dead_zone: bool = False
    mask: Mask | None = None
    dim: int | None = None


def _sigmoid_slope(z: Tensor) -> Tensor:
    y = torch.sigmoid(z)
    return 4 * y * (1 - y)


def _tanh_slope(z: Tensor) -> Tensor:
    return 1 - torch.tanh(z).square()


def _softsign_slope(z: Tensor) -> Tensor:
    return (1 + z.abs()).pow(-2)


def _window_slope(low: float, high: float) -> Callable[[Tensor], Tensor]:
    return lambda z: ((z > low) & (z < high)).to(z.dtype)


def _gate_slope(dim: int) -> Callable[[Tensor], Tensor]:
    return lambda z: _sigmoid_slope(z.chunk(2, dim)[1])


def _module_slope(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Derivative over its maximum, for activations bounded on both sides.

    Of ReLU6 only the upper side: the lower one is counted as dead.
    """
    if isinstance(module, nn.ReLU6):
        return _window_slope(float("-inf"), 6)
    if isinstance(module, nn.Hardtanh):
        return _window_slope(module.min_val, module.max_val)
    if isinstance(module, nn.GLU):
        return _gate_slope(module.dim)
    for kind, slope in (
        (nn.Sigmoid, _sigmoid_slope),
        (nn.Tanh, _tanh_slope),
        (nn.Softsign, _softsign_slope),
        (nn.Hardsigmoid, _window_slope(-3, 3)),
    ):
        if isinstance(module, kind):
            return slope
    return None


def _call_slope(
    operator: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> Callable[[Tensor], Tensor] | None:
    if operator == "hardtanh":
        return _window_slope(
            _argument(arguments, named, 1, "min_val", -1.0),
            _argument(arguments, named, 2, "max_val", 1.0),
        )
    if operator == "glu":
        return _gate_slope(_argument(arguments, named, 1, "dim", -1))
    return {
        "sigmoid": _sigmoid_slope,
        "tanh": _tanh_slope,
        "softsign": _softsign_slope,
        "hardsigmoid": _window_slope(-3, 3),
        "relu6": _window_slope(float("-inf"), 6),
    }.get(operator)


def _argument(
    arguments: tuple[Any, ...], named: dict[str, Any], place: int, name: str, default: Any
) -> Any:
    return arguments[place] if len(arguments) > place else named.get(name, default)


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The module's class as it was written; FSDP2 and parametrizations put one over it."""
    return next(
        kind
        for kind in type(module).__mro__
        if kind.__module__ != "torch.nn.utils.parametrize"
        and not any(each.__name__ == "FSDPModule" for each in (kind, *kind.__bases__))
    )


def is_activation(module: nn.Module) -> bool:
    """Whether the module is a non-linearity of torch's."""
    return isinstance(module, _ACTIVATIONS)


def has_dead_zone(kind: type[nn.Module]) -> bool:
    """Whether negative inputs leave neither output nor gradient."""
    return issubclass(kind, _DEAD_ZONE)


def role_of(module: nn.Module) -> Role | None:
    """What the module is as a site; None for one that computes nothing of its own."""
    if is_activation(module):
        return Role.ACTIVATION
    if isinstance(module, _NORMALISATIONS):
        return Role.NORMALISATION
    if isinstance(module, _EMBEDDINGS):
        return Role.EMBEDDING
    own = isinstance(module, _LAYERS) or any(True for _ in module.parameters(recurse=False))
    return Role.LAYER if own else None


def over_last_of_many(z: Tensor, dim: int | None) -> bool:
    """Whether a softmax is one over attention scores: of many rows, over the last dimension."""
    return z.ndim >= 3 and dim is not None and dim % z.ndim == z.ndim - 1


def saturation(module: nn.Module) -> Mask | None:
    """For a bounded activation, the function from pre-activations to a mask of saturated elements.

    An element is saturated where |f'(z)| is below 1 % of the largest |f'|. Computed in float32 at
    least, whatever the type of ``z``; the mask has the output's shape. None for unbounded ones.
    """
    return _mask(_module_slope(module))


def saturated_output(module: nn.Module) -> Mask | None:
    """As :func:`saturation`, from the output; for recurrent layers whose output is a tanh."""
    if isinstance(module, (nn.RNN, nn.RNNCell)) and module.nonlinearity == "tanh":
        return _mask(lambda y: 1 - y.square())
    return None


def _mask(slope: Callable[[Tensor], Tensor] | None) -> Mask | None:
    if slope is None:
        return None
    return lambda z: slope(z.to(torch.promote_types(z.dtype, torch.float32))) < SATURATED


def called(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Call | None:
    """What a call of a function of torch's is as a site; None where it is none."""
    operator = name if name.startswith("__") else name.rstrip("_")
    operator = _ALIASES.get(operator, operator)
    z = _argument(arguments, named, 0, "input", None)
    if not isinstance(z, Tensor):
        return None
    if operator == "clamp":
        low = _argument(arguments, named, 1, "min", None)
        high = _argument(arguments, named, 2, "max", None)
        if isinstance(low, (int, float)) and low == 0 and high is None:
            return Call("relu", Role.ACTIVATION, z, dead_zone=True)
        return None
    if operator in _ACTIVATION_CALLS:
        dim = None
        role = Role.ACTIVATION
        if operator == "softmax":
            dim = _argument(arguments, named, 1, "dim", None)
            role = Role.ATTENTION if over_last_of_many(z, dim) else role
        return Call(
            operator,
            role,
            z,
            dead_zone=operator in ("relu", "relu6"),
            mask=_mask(_call_slope(operator, arguments, named)),
            dim=dim,
        )
    if operator == "scaled_dot_product_attention":
        return Call(operator, Role.ATTENTION, _argument(arguments, named, 0, "query", z))
    if operator in _LAYER_CALLS:
        return Call(operator, Role.LAYER, z)
    if operator in _PRODUCTS and any(isinstance(each, nn.Parameter) for each in arguments):
        return Call(operator.strip("_"), Role.LAYER, z)
    if operator in _NORMALISATION_CALLS:
        return Call(operator, Role.NORMALISATION, z)
    if operator in _EMBEDDING_CALLS:
        return Call(operator, Role.EMBEDDING, z)
    return None
