"""A tensor by the place of its memory in a file, its shape and its strides."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from gradscope.checkpoints.checkpoint import StoredTensor
from gradscope.checkpoints.pickles.inert_values import Called, Global
from gradscope.checkpoints.storage.paging import MappedTensor
from gradscope.checkpoints.storage.regions import Region, Unreadable

__all__ = ["Repeated", "row_major", "strided", "whole_numbers"]

_DIMENSIONS: Final = 64
"""More than torch has in any tensor."""

_SIZE_LIMIT: Final = 2**63
_SIZE: Final = Global("torch", "Size")


class Repeated(Unreadable):
    """A tensor has more elements than are stored."""


def strided(
    region: Region, dtype: torch.dtype, shape: object, strides: object, offset: object
) -> StoredTensor:
    """A tensor whose storage is a region.

    Args:
        region: of the file.
        dtype: of its elements.
        shape: which has no more elements than the region.
        strides: in elements.
        offset: of its first element, in elements.

    Raises:
        Unreadable: it does not lie in the region.
        Repeated: it does, and has more elements than are stored.
    """
    sizes, steps = whole_numbers(shape), whole_numbers(strides)
    if sizes is None or steps is None or len(sizes) != len(steps) or type(offset) is not int:
        raise Unreadable("a tensor's shape is damaged")
    count, size = math.prod(sizes), dtype.itemsize
    if offset < 0 or math.prod(max(length, 1) for length in sizes) >= _SIZE_LIMIT:
        raise Unreadable(f"a tensor's shape is damaged ({sizes!s:.100} at {offset})")
    if not count:
        return StoredTensor(sizes, dtype, lambda: torch.empty(sizes, dtype=dtype))
    span = 1 + sum((length - 1) * step for length, step in zip(sizes, steps, strict=True))
    if (offset + span) * size > region.length:
        raise Unreadable(
            f"a tensor of shape {sizes!s:.100} does not lie in its memory of {region.length} bytes"
        )
    if count * size > region.length:
        raise Repeated(f"shows {count:,} elements of memory that holds fewer")
    mapping, begin = region.mapping, region.offset + offset * size
    if mapping is not None and begin % size == 0:

        def look() -> Tensor:
            empty: Any = torch.empty(0, dtype=dtype)
            return empty.set_(mapping, begin // size, sizes, steps)  # type: ignore[no-any-return]

        return MappedTensor(sizes, dtype, look)
    used = region.part(offset * size, span * size)
    return StoredTensor(
        sizes, dtype, lambda: torch.frombuffer(used.read(), dtype=dtype).as_strided(sizes, steps)
    )


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a tensor whose elements lie one after another."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def whole_numbers(value: object) -> tuple[int, ...] | None:
    """Sizes or offsets: a tuple, a list or a torch.Size of whole numbers from 0; None if not."""
    if isinstance(value, Called) and value.function == _SIZE:
        inner = value.arguments
        value = inner[0] if type(inner) is tuple and len(inner) == 1 else None
    if not isinstance(value, tuple | list) or len(value) > _DIMENSIONS:
        return None
    if not all(type(number) is int and 0 <= number < _SIZE_LIMIT for number in value):
        return None
    return tuple(value)
