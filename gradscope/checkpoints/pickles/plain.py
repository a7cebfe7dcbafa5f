"""A loaded object as plain containers, numbers and texts, with StoredTensor for its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from gradscope.checkpoints.checkpoint import StoredTensor
from gradscope.checkpoints.storage.paging import MappedTensor

__all__ = ["DEPTH", "TOO_DEEP", "Unordered", "Unread", "made_plain"]

DEPTH: Final = 100
"""How deep containers may lie in each other; those of checkpoints have less than ten levels."""

TOO_DEEP: Final = f"is nested more than {DEPTH} levels deep"


class Unread:
    """In place of something that is not read, and why; without a reason it is no tensor."""

    reason: str = ""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Unordered(dict[str, Any]):
    """Tensors by name, in an order that is not the model's.

    Attributes:
        hints: by name, what rises along the model, such as the number of a shard; may be empty.
    """

    def __init__(self, tensors: Mapping[str, Any], hints: Mapping[str, int] | None = None) -> None:
        super().__init__(tensors)
        self.hints = dict(hints or {})


def made_plain(loaded: object, is_mapped: Callable[[Tensor], bool]) -> Any:
    """The same with dict, list, str, int, float, bool, None, StoredTensor and Unread alone.

    Containers that are shared or hold themselves are the same or hold themselves in the result,
    too. Tensors that have memory and view of it in common become the same StoredTensor.

    Args:
        loaded: what torch.load returned.
        is_mapped: whether the memory of a tensor is that of a file, which nothing has written to.
    """
    return _Plain(is_mapped).of(loaded, 0)


class _Plain:
    def __init__(self, is_mapped: Callable[[Tensor], bool]) -> None:
        self._is_mapped = is_mapped
        self._containers: dict[int, Any] = {}
        self._tensors: dict[tuple[Any, ...], StoredTensor] = {}
        self._kept: list[Any] = []  # what stands by its id in _containers must not be freed

    def of(self, value: Any, depth: int) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float | str):
            return _builtin(value)
        if isinstance(value, bytes):
            return Unread("")
        if isinstance(value, nn.Module):
            value = value.state_dict(keep_vars=True)
        if not isinstance(value, Mapping | list | tuple):
            return Unread("")
        if id(value) in self._containers:
            return self._containers[id(value)]
        if depth >= DEPTH:
            return Unread(TOO_DEEP)
        self._kept.append(value)
        if isinstance(value, Mapping):
            mapping: dict[Any, Any] = {}
            self._containers[id(value)] = mapping
            for key, item in value.items():
                if isinstance(key, str | int):
                    mapping[_builtin(key)] = self.of(item, depth + 1)
            return mapping
        items: list[Any] = []
        self._containers[id(value)] = items
        items.extend(self.of(item, depth + 1) for item in value)
        return items

    def _tensor(self, tensor: Tensor) -> StoredTensor | Unread:
        if type(tensor) not in (Tensor, nn.Parameter):
            return Unread(f"is a {type(tensor).__name__}, which is not read")
        # A file may give a tensor attributes that hide its methods; detach() drops them.
        tensor = Tensor.detach(tensor)
        if reason := _unreadable(tensor):
            return Unread(reason)
        count = tensor.numel()
        view = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        place = tensor.untyped_storage().data_ptr() if count else id(tensor)
        key = (place, count == 0, *view)
        if (known := self._tensors.get(key)) is not None:
            return known
        kind = MappedTensor if count and self._is_mapped(tensor) else StoredTensor
        stored = kind(tuple(tensor.shape), tensor.dtype, lambda: tensor)
        self._tensors[key] = stored
        return stored


def _builtin(value: Any) -> Any:
    """A number or text as it is, without the class that a trusted pickle may have given it."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    return value


def _unreadable(tensor: Tensor) -> str | None:
    """Why a tensor is not read."""
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype})"
    if tensor.is_nested:
        return "is a nested tensor"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout})"
    if tensor.device.type != "cpu":
        return "has no numbers" if tensor.is_meta else f"lies on {tensor.device}"
    if tensor.is_complex():
        return "is complex"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"shows {tensor.numel():,} elements of memory that holds fewer"
    return None
