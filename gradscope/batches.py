"""What a batch is: how it is passed to a model, how large it is, where its tensors are.

A batch, and what a model returns for it, is a tensor or a structure of them: mappings (also those
that are more, such as a tokenizer's ``BatchEncoding`` or a ``ModelOutput``), tuples, lists, named
tuples and dataclasses, nested as one likes. Samples are dimension 0 of its tensors.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

__all__ = [
    "Batch",
    "batch_size",
    "call_model",
    "data_on",
    "described",
    "half",
    "outermost",
    "own_loss",
    "tensors_in",
    "to_device",
]

Batch = Any


def call_model(model: nn.Module, batch: Batch) -> Any:
    """Passes a batch to a model by the convention of subject files."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(batch[0])
    return model(batch)


def batch_size(batch: Batch) -> int:
    """How many samples a batch holds: the first extent of its first tensor that has one, else 1."""
    return next((tensor.shape[0] for tensor in tensors_in(batch) if tensor.ndim), 1)


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


def outermost(value: Any) -> list[Tensor]:
    """The tensors that lie least deep: the value itself, else its parts, else the first deeper."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, (tuple, list)):
        parts = list(value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, entry.name) for entry in fields(value)]
    else:
        return []
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return tensors or list(itertools.islice(tensors_in(value), 1))


def described(batch: Batch) -> str:
    """The shapes in a batch, for messages."""
    shapes = ["x".join(map(str, tensor.shape)) or "scalar" for tensor in tensors_in(batch)]
    return f"shape {', '.join(shapes)}" if shapes else f"type {type(batch).__name__}"


def own_loss(output: Any) -> Tensor | None:
    """The loss that a model's output carries; None where it carries none.

    That is ``output["loss"]`` or ``output.loss``, else the first floating-point tensor without a
    dimension in a tuple, else the output itself where it is such a tensor.
    """
    if isinstance(output, Tensor):
        return output if output.ndim == 0 and output.is_floating_point() else None
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(named, Tensor):
        return named if named.numel() == 1 and named.is_floating_point() else None
    if isinstance(output, (tuple, list)):
        losses = (own_loss(item) for item in output if isinstance(item, Tensor))
        return next((loss for loss in losses if loss is not None), None)
    return None


def to_device(batch: Batch, device: str | torch.device) -> Batch:
    """The batch with its tensors, and whatever else has a ``to()``, on ``device``."""
    if not isinstance(batch, type) and callable(getattr(batch, "to", None)):
        # BatchEncoding moves itself in place, and the user's own is not to move.
        movable: Any = copy.copy(batch) if isinstance(batch, Mapping) else batch
        return movable.to(device)
    return _rebuilt(batch, lambda item: to_device(item, device))


def half(batch: Batch) -> Batch | None:
    """Every second sample of a batch, from the first on; half of them, rounded down.

    Divided are tensors and arrays of as many rows as the batch has samples, and lists and tuples
    inside of it that have one entry for each. Everything else is taken over as it is. A table of
    as many rows as there happen to be samples cannot be told from a tensor of samples.

    Returns:
        A batch of the same type, or None where there are less than two samples, or samples are
        packed one behind the other (``PackedSequence``).
    """
    size = batch_size(batch)
    if size < 2 or isinstance(batch, PackedSequence):
        return None
    return _part(batch, size, slice(0, size - size % 2, 2))


def _part(batch: Batch, size: int, rows: slice) -> Batch:
    """The samples in ``rows``, where the batch itself is no list of samples but may hold some."""

    def part(item: Any) -> Any:
        if isinstance(item, (list, tuple)) and len(item) == size and not _of_samples(item, size):
            # Named tuples are not made from one sequence; that many fields are no samples anyway.
            return item if hasattr(item, "_fields") else item[rows]
        return _part(item, size, rows)

    if isinstance(batch, (Tensor, np.ndarray)):
        if not batch.ndim or len(batch) != size:
            return batch
        # As data loaders make them: models call view() on labels.
        return batch[rows].contiguous() if isinstance(batch, Tensor) else batch[rows].copy()
    return _rebuilt(batch, part)


def _of_samples(items: Sequence[Any], size: int) -> bool:
    """Whether each entry holds a row for each sample, so that entries are no samples themselves."""

    def rows(item: Any) -> list[int]:
        if isinstance(item, np.ndarray):
            return [len(item) if item.ndim else 0]
        return [len(tensor) if tensor.ndim else 0 for tensor in tensors_in(item)]

    return all(set(rows(item)) == {size} for item in items)


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A structure of the same type with each of its parts changed; what is none as it is."""
    if isinstance(value, Mapping):
        changed = {key: change(item) for key, item in value.items()}
        if not isinstance(value, MutableMapping):
            return changed
        rebuilt = copy.copy(value)
        for key, item in changed.items():
            rebuilt[key] = item
        return rebuilt
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(change(item) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)([change(item) for item in value])
    if is_dataclass(value) and not isinstance(value, type):
        other = copy.copy(value)
        for entry in fields(value):
            # Also a frozen one, and fields that __init__ does not take.
            object.__setattr__(other, entry.name, change(getattr(value, entry.name)))
        return other
    return value


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
