"""Which of torch's functions and methods compute an operator, and how their calls are read.

One operator has many spellings: ``F.relu(x)``, ``torch.relu(x)``, ``x.relu_()``, ``x.clip(min=0)``
and the ``aten.relu`` of an exported program are all ``relu``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.derivatives import Derivative
from gradscope.profile import operators

__all__ = [
    "ALIASES",
    "CLAMPS",
    "CLAMP_NODES",
    "FUNCTIONS",
    "bound",
    "functions_of",
    "overloads_of",
]

Function = Callable[..., Any]

ALIASES = {"special_expit": "sigmoid", "expit": "sigmoid", "special_round": "round"}
"""Other names of operators."""

_HOMES = (torch, functional, Tensor, torch._C._nn, torch.special)

FUNCTIONS: dict[str, frozenset[Function]] = {}
"""By operator, what ``functions_of`` has found."""

_WRITING: set[Function] = set()
"""Those of them that work in place."""


def functions_of(operator: str) -> frozenset[Function]:
    """Every function and method of torch's that computes an operator, in place or not.

    Not those of ``torch.ops``: what calls them is a graph, which is patched by its nodes, or was
    made of what has been patched.
    """
    if operator in FUNCTIONS:
        return FUNCTIONS[operator]
    found: set[Function] = set()
    for name in (operator, f"{operator}_", *(key for key in ALIASES if ALIASES[key] == operator)):
        found |= {getattr(home, name) for home in _HOMES if hasattr(home, name)}
    _WRITING.update(filter(_writes, found))
    return FUNCTIONS.setdefault(operator, frozenset(found))


def overloads_of(operator: str) -> frozenset[Function]:
    """The overloads ``torch.ops.aten.OPERATOR.default`` that nodes of exported programs call."""
    found: set[Function] = set()
    for name in (operator, f"{operator}_", *(key for key in ALIASES if ALIASES[key] == operator)):
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None and "default" in packet.overloads():
            found.add(packet.default)
    _WRITING.update(filter(_writes, found))
    return frozenset(found)


def _writes(function: Function) -> bool:
    """Whether a function's name says that it works in place."""
    name = function.__name__.partition(".")[0]
    return name.endswith("_") and not name.endswith("__")


CLAMPS: dict[Function, bool] = {
    getattr(home, f"{name}{suffix}"): at_least
    for name, at_least in operators.CLAMPS.items()
    for home in (torch, Tensor)
    for suffix in ("", "_")
}
"""Functions that are a ReLU where they clamp at zero from below; whether they take no upper end."""

CLAMP_NODES: dict[Function, bool] = {
    getattr(torch.ops.aten, f"{name}{suffix}").default: at_least
    for name, at_least in operators.CLAMPS.items()
    for suffix in ("", "_")
}
"""As ``CLAMPS``, in exported programs."""

_WRITING.update(filter(_writes, [*CLAMPS, *CLAMP_NODES]))


def bound(
    derivative: Derivative, function: Function, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Tensor, bool, dict[str, Any]] | None:
    """What a call of an operator was given.

    Returns:
        Its input, whether it is overwritten, and its other arguments by name; None for a call
        that cannot be differentiated artificially: it writes its output elsewhere, or takes what
        the derivative does not know.
    """
    rest = dict(named)
    positional = list(arguments)
    x = positional.pop(0) if positional else rest.pop("input", rest.pop("self", None))
    if not isinstance(x, Tensor) or rest.pop("out", None) is not None:
        return None
    if function in CLAMPS or function in CLAMP_NODES:
        return x, function in _WRITING, {}
    names = [*derivative.arguments, "inplace"]
    if len(positional) > len(names):
        return None
    rest.update(zip(names, positional, strict=False))
    inplace = bool(rest.pop("inplace", False)) or function in _WRITING
    if any(name not in derivative.arguments for name in rest):
        return None
    return x, inplace, rest
