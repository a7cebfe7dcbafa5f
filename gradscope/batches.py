"""What a batch is: how it is passed to a model, how large it is, where its tensors are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Batch", "batch_size", "call_model", "data_on", "tensors_in", "to_device"]

Batch = Any


def call_model(model: nn.Module, batch: Batch) -> Any:
    """Passes a batch to a model by the convention of subject files."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(batch[0])
    return model(batch)


def batch_size(batch: Batch) -> int:
    """How many samples a batch holds: the first extent of its first tensor, 1 without a tensor."""
    for tensor in tensors_in(batch):
        return tensor.shape[0] if tensor.ndim else 1
    return 1


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested mappings, sequences and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            yield from tensors_in(getattr(value, entry.name))


def described(batch: Batch) -> str:
    """The shapes in a batch, for messages."""
    shapes = ["x".join(map(str, tensor.shape)) or "scalar" for tensor in tensors_in(batch)]
    return f"shape {', '.join(shapes)}" if shapes else f"type {type(batch).__name__}"


def to_device(batch: Batch, device: str | torch.device) -> Batch:
    """Moves the tensors in nested mappings, tuples and lists to ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        if hasattr(batch, "to"):
            # Mappings that are more than that, such as a tokenizer's BatchEncoding.
            return batch.to(device)
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def data_on(data: Iterable[Batch], device: str | torch.device) -> Iterable[Batch]:
    """Batches moved to a device as they are drawn.

    A sequence stays one (it is shuffled in trials), an iterator stays one (it is spent after a
    pass), and anything else can be gone through again.
    """
    if isinstance(data, Sequence):
        return _MovedSequence(data, device)
    if isinstance(data, Iterator):
        return (to_device(batch, device) for batch in data)
    return _Moved(data, device)


class _Moved:
    def __init__(self, data: Iterable[Batch], device: str | torch.device) -> None:
        self._data, self._device = data, device

    def __iter__(self) -> Iterator[Batch]:
        return (to_device(batch, self._device) for batch in self._data)


class _MovedSequence(Sequence[Batch]):
    def __init__(self, data: Sequence[Batch], device: str | torch.device) -> None:
        self._data, self._device = data, device

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Batch:
        return to_device(self._data[index], self._device)
