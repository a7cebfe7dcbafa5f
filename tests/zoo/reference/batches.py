"""What a batch is: how a model is called on it, how many samples it holds, and a part of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tests.zoo.reference.capture import first_tensor


def call_model(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def samples_of(batch: Any) -> int:
    first = first_tensor(batch)
    assert first is not None
    return len(first)


def part_of(batch: Any, samples: int, part: slice) -> Any:
    """The same samples of every tensor that has that many."""
    if isinstance(batch, Tensor):
        return batch[part] if batch.ndim and len(batch) == samples else batch
    if isinstance(batch, Mapping):
        return {key: part_of(value, samples, part) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(part_of(value, samples, part) for value in batch)
    return batch
