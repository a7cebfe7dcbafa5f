"""Distributions that weights are drawn from, and the one that is fitted to data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from gradscope.errors import PlanError
from gradscope.remedies import check_number
from gradscope.remedies.overlay import plain_forward

__all__ = ["LAYERS", "SCHEMES", "can_be_drawn", "draw", "drawable", "parts", "unit_variance"]

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
"""The layers whose weights can be drawn anew."""

SCHEMES: dict[str, dict[str, float]] = {
    "he": {},
    "xavier": {"gain": 1.0},
    "orthogonal": {"gain": 2**0.5},
    "normal": {"sigma": 0.05},
    "lsuv": {},
}
"""Names of the schemes, and what each takes, with its default."""

_NAME = "re-initialise"

# Mishkin, Matas 2016: the variance is off by less than 0.1, after 10 rounds at most. Without a bias
# one round is exact.
_TOLERANCE = 0.1
_ROUNDS = 10


def drawable(model: nn.Module) -> list[str]:
    """Names of the layers with weights that can be drawn and are shared with no other layer."""
    holders = Counter(
        id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
    )
    return [
        name
        for name, module in model.named_modules()
        if can_be_drawn(module)
        and all(holders[id(each)] == 1 for each in module.parameters(recurse=False))
    ]


def can_be_drawn(module: nn.Module) -> bool:
    """Whether it is a layer whose weights are there, trained, and not computed from others.

    ``parametrize`` computes them from others, and so do the hooks of ``weight_norm`` and
    ``spectral_norm``.
    """
    own = list(module.parameters(recurse=False))
    return (
        isinstance(module, LAYERS)
        and not isinstance(module, LazyModuleMixin)
        and not is_parametrized(module)
        and not isinstance(vars(module).get("weight"), Tensor)
        and bool(own)
        and all(each.requires_grad for each in own)
    )


def draw(parameters: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """What draws a weight of two dimensions or more, in place, as prescribed.

    Raises:
        PlanError: there is no such scheme, or it has no such parameter or value.
    """
    settings = dict(parameters)
    scheme = settings.pop("scheme", None)
    known = SCHEMES.get(str(scheme))
    if known is None:
        raise PlanError(f"{_NAME} has no scheme {scheme!r}; it has {', '.join(SCHEMES)}.")
    for name, value in settings.items():
        if name not in known:
            raise PlanError(
                f"{_NAME} with scheme {scheme} takes no {name}; it takes "
                f"{', '.join(known) or 'nothing else'}."
            )
        check_number(_NAME, name, value)
    settings = {**known, **settings}
    match scheme:
        case "he":
            return lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu")
        case "xavier":
            return lambda weight: nn.init.xavier_normal_(weight, gain=settings["gain"])
        case "orthogonal":
            return lambda weight: _orthogonal(weight, settings["gain"])
        case "normal":
            return lambda weight: nn.init.normal_(weight, std=settings["sigma"])
    return _orthogonal


def _orthogonal(weight: Tensor, gain: float = 1.0) -> Tensor:
    # The decomposition that makes it is not there for short types.
    wide = torch.empty(
        weight.shape,
        dtype=torch.promote_types(weight.dtype, torch.float32),
        device=weight.device,
    )
    return weight.copy_(nn.init.orthogonal_(wide, gain))


def parts(layer: nn.Module, weight: Tensor) -> tuple[Tensor, ...]:
    """The matrices that a weight holds: attention keeps those of query, key and value in one."""
    if isinstance(layer, nn.MultiheadAttention) and weight is layer.in_proj_weight:
        return weight.chunk(3)
    return (weight,)


def unit_variance(layer: nn.Module, input: Tensor) -> None:
    """Scales a layer's weight so that its output for ``input`` has unit variance: LSUV.

    A layer whose output does not vary, or is not finite, is left as it is.
    """
    weight, bias = cast(Tensor, layer.weight), cast("Tensor | None", layer.bias)
    forward = plain_forward(layer)
    for _ in range(_ROUNDS):
        deviation = float(forward(input).to(torch.float32).std(correction=0))
        if not (math.isfinite(deviation) and deviation > 0):
            return
        weight.div_(deviation)
        if bias is None or not bias.any() or abs(deviation**2 - 1) < _TOLERANCE:
            return
