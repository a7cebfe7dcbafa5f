"""Distributions that weights are drawn from, and the one that is fitted to data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from gradscope.errors import PlanError
from gradscope.remedies import check_number
from gradscope.remedies.overlay import plain_forward

__all__ = [
    "FITTED",
    "LAYERS",
    "RECURRENT",
    "SCHEMES",
    "can_be_drawn",
    "draw",
    "draw_tied",
    "drawable",
    "parts",
    "tied_heads",
    "unit_variance",
]

FITTED = (nn.Linear, nn.modules.conv._ConvNd)
"""The layers whose output LSUV can look at."""

RECURRENT = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell)

LAYERS = (*FITTED, nn.MultiheadAttention, *RECURRENT, nn.Embedding)
"""The layers whose weights can be drawn anew; embeddings where they are a model's head, too."""

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
    """Names of the layers with weights that can be drawn and are shared with no other layer.

    Embeddings are none of them: they are drawn where they are a head, too (see ``tied_heads``).
    """
    holders = Counter(
        id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
    )
    return [
        name
        for name, module in model.named_modules()
        if can_be_drawn(module)
        and not isinstance(module, nn.Embedding)
        and all(holders[id(each)] == 1 for each in module.parameters(recurse=False))
    ]


def tied_heads(model: nn.Module) -> list[str]:
    """Names of the linear layers whose weight is that of an embedding, and of nothing else."""
    holders: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            holders.setdefault(id(weight), []).append(module)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and can_be_drawn(module)
        and len(holders[id(module.weight)]) > 1
        and all(
            each is module or isinstance(each, nn.Embedding) for each in holders[id(module.weight)]
        )
        and len(holders.get(id(module.bias), [module])) == 1
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
        and not any(
            name.startswith("weight") and isinstance(value, Tensor)
            for name, value in vars(module).items()
        )
        and bool(own)
        and all(each.requires_grad for each in own)
    )


def draw(parameters: dict[str, Any]) -> Callable[[nn.Module, Tensor], None]:
    """What draws a layer's parameter anew, in place, as prescribed; biases are set to zero.

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
    return partial(_draw, str(scheme), {**known, **settings})


def _draw(scheme: str, settings: dict[str, float], layer: nn.Module, tensor: Tensor) -> None:
    name = _own_name(layer, tensor)
    if tensor.ndim < 2:
        tensor.zero_()
        if isinstance(layer, (nn.LSTM, nn.LSTMCell)) and name.startswith("bias_ih"):
            # Jozefowicz et al. 2015: gates that forget nothing at first.
            _, forget, *_ = tensor.chunk(4)
            forget.fill_(1)
        return
    for part in parts(layer, tensor):
        if name.startswith("weight_hh") and scheme != "normal":
            # Multiplied with at every time step: with another gain signals would grow or decay.
            _orthogonal(part)
            continue
        match scheme:
            case "he":
                nn.init.kaiming_normal_(part, nonlinearity="relu")
            case "xavier":
                nn.init.xavier_normal_(part, gain=settings["gain"])
            case "orthogonal":
                _orthogonal(part, settings["gain"])
            case "normal":
                nn.init.normal_(part, std=settings["sigma"])
            case _:
                _orthogonal(part)


def draw_tied(model: nn.Module, weight: Tensor, scheme: str) -> None:
    """Corrects what was drawn for an embedding that is the head as well, ``(tokens, width)``.

    No activation is behind it, and its fan-out is a vocabulary's: He's and Xavier's scales are
    meant for others. Rows of padding become zero.
    """
    if scheme in ("he", "xavier"):
        nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    for module in model.modules():
        if not isinstance(module, nn.Embedding) or module.weight is not weight:
            continue
        if module.padding_idx is not None:
            weight[module.padding_idx] = 0


def _own_name(layer: nn.Module, tensor: Tensor) -> str:
    return next(name for name, each in layer.named_parameters(recurse=False) if each is tensor)


def _orthogonal(weight: Tensor, gain: float = 1.0) -> Tensor:
    # The decomposition that makes it is not there for short types.
    wide = torch.empty(
        weight.shape,
        dtype=torch.promote_types(weight.dtype, torch.float32),
        device=weight.device,
    )
    return weight.copy_(nn.init.orthogonal_(wide, gain))


def parts(layer: nn.Module, weight: Tensor) -> tuple[Tensor, ...]:
    """The matrices that a weight holds.

    Attention keeps those of query, key and value in one, recurrent layers those of their gates.
    """
    if isinstance(layer, nn.MultiheadAttention) and weight is layer.in_proj_weight:
        return weight.chunk(3)
    if isinstance(layer, RECURRENT) and not _own_name(layer, weight).startswith("weight_hr"):
        return tuple(weight.split(layer.hidden_size))
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
