"""What a script calls its models."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from types import FrameType, ModuleType
from typing import Any

from torch import nn

__all__ = ["names_of", "variables"]

# Frames of these are not the script's; nor is what they call things.
_LIBRARIES = ("torch", "gradscope", "runpy", "importlib", "contextlib")

# To the snapshot of a frame's variables: the frame's, ours, and that of who counts them.
_OWN_REFERENCES = 3


def names_of(models: Sequence[nn.Module]) -> list[str]:
    """A name for each, no two alike: its variable, what holds it calls it, or its class."""
    known = {id(model): "" for model in models}
    for name, value in variables():
        if known.get(id(value)) == "":
            known[id(value)] = name
    names: list[str] = []
    for model in models:
        name = known[id(model)] or type(model).__name__
        taken = sum(1 for each in names if each == name or each.startswith(f"{name}-"))
        names.append(f"{name}-{taken + 1}" if taken else name)
    return names


def variables() -> Iterator[tuple[str, Any]]:
    """Names and values: of the functions that run, of the script, then of what these hold."""
    scopes = [_locals(frame) for frame in _frames()]
    scopes.append(dict(vars(sys.modules["__main__"])))
    for scope in scopes:
        yield from ((name, value) for name, value in scope.items() if name != "self")
    for scope in scopes:
        for value in scope.values():
            yield from _attributes(value)


def _frames() -> list[FrameType]:
    """Those of functions that are running, the outermost first, without libraries'."""
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _LIBRARIES and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _locals(frame: FrameType) -> dict[str, Any]:
    snapshot = frame.f_locals
    taken = dict(snapshot)
    # Before Python 3.13 the frame keeps it, and what it names would live until it returns; where
    # the script has called locals(), it is the script's.
    if type(snapshot) is dict and sys.getrefcount(snapshot) <= _OWN_REFERENCES:
        snapshot.clear()
    return taken


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    # By type: isinstance() would run code of lazy proxies.
    kind = type(value)
    if issubclass(kind, (type, ModuleType)):
        return
    if issubclass(kind, nn.Module):
        yield from value._modules.items()
    elif kind is dict:
        yield from ((str(name), each) for name, each in value.items())
    else:
        try:
            held = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return
        if type(held) is dict:
            yield from held.items()
