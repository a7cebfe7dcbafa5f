"""Puts a flattened state dict back together, as the training script had it.

torch.distributed.checkpoint saves ``{"model": {"0.weight": ...}}`` as ``model.0.weight`` and notes
the path, ``("model", "0.weight")``. Keys of dicts become texts by that, also where they numbered an
optimizer's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

__all__ = ["nested"]


class _List(dict[int, Any]):
    """Items of a list by their place: none needs more memory than it has items."""


def nested(values: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]]) -> Any:
    """The state dict.

    Args:
        values: by flattened key.
        paths: by flattened key; one that is missing, or that leads through another value, is taken
            for a key of the outermost dict.
    """
    root: dict[str, Any] = {}
    for key, value in values.items():
        if not _put(root, paths.get(key, (key,)), value):
            root.setdefault(key, value)
    return _finished(root)


def _put(root: dict[str, Any], path: tuple[str | int, ...], value: Any) -> bool:
    """Whether there was room for the value at the end of the path."""
    if type(path[0]) is not str:
        return False
    inside: Any = root
    for part, following in pairwise(path):
        if not _fits(inside, part):
            return False
        kind = _List if type(following) is int else dict
        inside = inside.setdefault(part, kind())
    if not _fits(inside, path[-1]) or path[-1] in inside:
        return False
    inside[path[-1]] = value
    return True


def _fits(inside: Any, part: str | int) -> bool:
    return type(inside) is (_List if type(part) is int else dict)


def _finished(value: Any) -> Any:
    if type(value) is _List:
        return [_finished(value[place]) for place in sorted(value)]
    if type(value) is not dict:
        return value
    inside = {key: _finished(item) for key, item in value.items()}
    return _numbered(inside)


def _numbered(inside: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by number again, where that is what ``params`` has."""
    state, groups = inside.get("state"), inside.get("param_groups")
    if not isinstance(state, dict) or not isinstance(groups, list):
        return inside
    known = {
        parameter
        for group in groups
        if isinstance(group, dict) and isinstance(group.get("params"), list)
        for parameter in group["params"]
        if type(parameter) is int
    }
    by_number = {
        int(key) if _is_number(key) and int(key) in known else key: item
        for key, item in state.items()
    }
    return {**inside, "state": by_number}


def _is_number(key: Any) -> bool:
    return type(key) is str and len(key) <= 18 and key.isascii() and key.isdigit()
