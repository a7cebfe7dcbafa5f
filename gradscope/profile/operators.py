"""What is known of torch's operators, as modules and as functions.

Where activations are dead or saturated; which calls are layers, norms, look-ups, attention. A new
activation is one line in the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from gradscope.derivatives.isigmoid import Isigmoid
from gradscope.records import Role

__all__ = [
    "CLAMPS",
    "Call",
    "called",
    "dead_zone",
    "has_dead_zone",
    "is_activation",
    "is_clamped_relu",
    "kind_of",
    "over_last_of_many",
    "role_of",
    "saturated_output",
    "saturation",
]

Mask = Callable[[Tensor], Tensor]
Slope = Callable[[Tensor], Tensor]
Settings = Mapping[str, Any]

# A bounded activation is saturated where its derivative is below this share of its largest one.
SATURATED = 0.01


# --- Derivatives over their maximum -----------------------------------------------------------


def _sigmoid(settings: Settings) -> Slope:
    def slope(z: Tensor) -> Tensor:
        y = torch.sigmoid(z)
        return 4 * y * (1 - y)

    return slope


def _tanh(settings: Settings) -> Slope:
    return lambda z: 1 - torch.tanh(z).square()


def _softsign(settings: Settings) -> Slope:
    return lambda z: (1 + z.abs()).pow(-2)


def _window(low: float, high: float) -> Slope:
    return lambda z: ((z > low) & (z < high)).to(z.dtype)


def _gate(settings: Settings) -> Slope:
    """Of the half of the input that is the gate."""
    return lambda z: _sigmoid(settings)(z.chunk(2, settings["dim"])[1])


# --- The table --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Activation:
    """One activation.

    Attributes:
        module: its class in torch.nn.
        call: the function's name, without a trailing underscore.
        settings: what its module keeps and its function takes after the input, with defaults.
        slope: derivative over its maximum, where it is bounded on both sides.
        dead: whether negative inputs leave neither output nor gradient.
    """

    module: type[nn.Module]
    call: str
    settings: dict[str, Any] = field(default_factory=dict)
    slope: Callable[[Settings], Slope] | None = None
    dead: Callable[[Settings], bool] = lambda settings: False


def _always(settings: Settings) -> bool:
    return True


_TABLE = (
    _Activation(nn.CELU, "celu"),
    _Activation(nn.ELU, "elu"),
    _Activation(nn.GELU, "gelu"),
    _Activation(nn.GLU, "glu", {"dim": -1}, slope=_gate),
    _Activation(nn.Hardshrink, "hardshrink"),
    _Activation(nn.Hardsigmoid, "hardsigmoid", slope=lambda _: _window(-3, 3)),
    _Activation(nn.Hardswish, "hardswish"),
    # Of ReLU6, which stands before Hardtanh, its base class, only the upper side: the lower one is
    # counted as dead.
    _Activation(nn.ReLU6, "relu6", slope=lambda _: _window(-math.inf, 6), dead=_always),
    _Activation(
        nn.Hardtanh,
        "hardtanh",
        {"min_val": -1.0, "max_val": 1.0},
        slope=lambda settings: _window(settings["min_val"], settings["max_val"]),
    ),
    _Activation(
        nn.LeakyReLU,
        "leaky_relu",
        {"negative_slope": 0.01},
        dead=lambda settings: bool(settings["negative_slope"] == 0),
    ),
    _Activation(Isigmoid, "isigmoid"),
    _Activation(nn.LogSigmoid, "logsigmoid"),
    _Activation(nn.LogSoftmax, "log_softmax"),
    _Activation(nn.Mish, "mish"),
    _Activation(nn.PReLU, "prelu"),
    _Activation(nn.RReLU, "rrelu"),
    _Activation(nn.ReLU, "relu", dead=_always),
    _Activation(nn.SELU, "selu"),
    _Activation(nn.SiLU, "silu"),
    _Activation(nn.Sigmoid, "sigmoid", slope=_sigmoid),
    _Activation(nn.Softmax, "softmax", {"dim": None}),
    _Activation(nn.Softmax2d, "softmax"),
    _Activation(nn.Softmin, "softmin"),
    _Activation(nn.Softplus, "softplus"),
    _Activation(nn.Softshrink, "softshrink"),
    _Activation(nn.Softsign, "softsign", slope=_softsign),
    _Activation(nn.Tanh, "tanh", slope=_tanh),
    _Activation(nn.Tanhshrink, "tanhshrink"),
    _Activation(
        nn.Threshold,
        "threshold",
        {"threshold": 0.0, "value": 0.0},
        dead=lambda settings: bool(settings["threshold"] == 0 and settings["value"] == 0),
    ),
)
_BY_CALL = {entry.call: entry for entry in reversed(_TABLE)}

_ALIASES = {
    "special_expit": "sigmoid",
    "log_sigmoid": "logsigmoid",
    "_threshold": "threshold",
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
}

CLAMPS = {"clamp_min": True, "clamp": False, "clip": False}
"""Functions that are a ReLU where they clamp at zero from below; whether they take no upper end."""

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

_CALLS = {
    **dict.fromkeys(
        (
            "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
            "conv_transpose2d", "conv_transpose3d",
        ),
        Role.LAYER,
    ),
    **dict.fromkeys(
        ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"),
        Role.NORMALISATION,
    ),
    **dict.fromkeys(("embedding", "embedding_bag"), Role.EMBEDDING),
    "scaled_dot_product_attention": Role.ATTENTION,
}  # fmt: skip
# Layers only where an operand is a parameter.
_PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm"})


# --- Modules ----------------------------------------------------------------------------------


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The module's class as it was written; FSDP2 and parametrizations put one over it."""
    return next(
        kind
        for kind in type(module).__mro__
        if kind.__module__ != "torch.nn.utils.parametrize"
        and not any(each.__name__ == "FSDPModule" for each in (kind, *kind.__bases__))
    )


def _entry(kind: type[nn.Module]) -> _Activation | None:
    return next((entry for entry in _TABLE if issubclass(kind, entry.module)), None)


def _settings(module: nn.Module, entry: _Activation) -> Settings:
    return {name: getattr(module, name, value) for name, value in entry.settings.items()}


def is_activation(module: nn.Module) -> bool:
    """Whether the module is a non-linearity of torch's."""
    return _entry(type(module)) is not None


def has_dead_zone(kind: type[nn.Module]) -> bool:
    """Whether negative inputs leave neither output nor gradient, as the class comes."""
    entry = _entry(kind)
    return entry is not None and entry.dead(entry.settings)


def dead_zone(module: nn.Module) -> bool:
    """Whether negative inputs leave neither output nor gradient."""
    if isinstance(module, (nn.RNN, nn.RNNCell)):
        return module.nonlinearity == "relu"
    entry = _entry(type(module))
    return entry is not None and entry.dead(_settings(module, entry))


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


def over_last_of_many(z: Tensor, dim: object) -> bool:
    """Whether a softmax is one over attention scores: of many rows, over the last dimension."""
    return z.ndim >= 3 and isinstance(dim, int) and dim % z.ndim == z.ndim - 1


def saturation(module: nn.Module) -> Mask | None:
    """For a bounded activation, the function from pre-activations to a mask of saturated elements.

    An element is saturated where |f'(z)| is below 1 % of the largest |f'|. Computed in float32 at
    least, whatever the type of ``z``; the mask has the output's shape. None for unbounded ones.
    """
    entry = _entry(type(module))
    if entry is None or entry.slope is None:
        return None
    return _mask(entry.slope(_settings(module, entry)))


def saturated_output(module: nn.Module) -> Mask | None:
    """As :func:`saturation`, from the output; for recurrent layers whose output is a tanh."""
    if isinstance(module, (nn.RNN, nn.RNNCell)) and module.nonlinearity == "tanh":
        return _mask(lambda y: 1 - y.square())
    return None


def _mask(slope: Slope) -> Mask:
    return lambda z: slope(z.to(torch.promote_types(z.dtype, torch.float32))) < SATURATED


# --- Calls ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function that makes a site.

    Attributes:
        operator: the function's name.
        role: what stands at the site.
        z: what it was called on.
        dead_zone: whether negative inputs leave neither output nor gradient.
        mask: as :func:`saturation`.
    """

    operator: str
    role: Role
    z: Tensor
    dead_zone: bool = False
    mask: Mask | None = None


def called(
    name: str,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    is_weight: Callable[[Tensor], bool],
) -> Call | None:
    """What a call of a function of torch's is as a site; None where it is none.

    ``is_weight`` tells which operand of a product is a weight.
    """
    operator = name if name.startswith("__") else name.rstrip("_")
    operator = _ALIASES.get(operator, operator)
    if operator in CLAMPS:
        if not is_clamped_relu(CLAMPS[operator], arguments, named):
            return None
        operator = "relu"
    entry = _BY_CALL.get(operator)
    role = _CALLS.get(operator)
    if entry is None and role is None and operator not in _PRODUCTS:
        return None
    tensors = [each for each in (*arguments, *named.values()) if isinstance(each, Tensor)]
    if not tensors:
        return None
    z = tensors[0]
    if entry is not None:
        taken = zip(entry.settings, arguments[1:], strict=False)
        settings = {**entry.settings, **dict(taken), **named}
        attends = operator == "softmax" and over_last_of_many(z, settings["dim"])
        return Call(
            operator,
            Role.ATTENTION if attends else Role.ACTIVATION,
            z,
            dead_zone=entry.dead(settings),
            mask=None if entry.slope is None else _mask(entry.slope(settings)),
        )
    if role is not None:
        return Call(operator, role, z)
    return Call(operator.strip("_"), Role.LAYER, z) if any(map(is_weight, tensors)) else None


def is_clamped_relu(at_least: bool, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    """Whether a clamp is one at zero from below alone; ``at_least`` as in ``CLAMPS``."""
    bounds = {**dict(zip(("min", "max"), arguments[1:], strict=False)), **named}
    low = bounds.get("min")
    zero = isinstance(low, (int, float)) and not isinstance(low, bool) and low == 0
    return zero and (at_least or bounds.get("max") is None)
