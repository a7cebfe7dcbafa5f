"""A tensor in parts that stay in cache, in a type that can be calculated with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CHUNK", "Chunk", "chunks", "extents", "real", "working_type"]

# Four megabytes of float32 stay in cache while they are gone through again; with less, the calls
# cost as much as the work: what they need themselves has left the cache since the last chunk.
CHUNK = 1 << 20

_ONE_BYTE = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)


class Chunk(NamedTuple):
    """Part of a tensor as (rows, elements of a row).

    ``values`` is float32, or float64 where the tensor needs it; it is a view of the file or of a
    buffer that the next chunk overwrites.
    """

    row: int
    column: int
    values: Tensor

    @property
    def rows(self) -> slice:
        return slice(self.row, self.row + self.values.shape[0])


def chunks(tensor: Tensor, elements: int = CHUNK, *, widened: bool = True) -> Iterator[Chunk]:
    """The tensor in parts of at most so many elements; one of fewer dimensions is a single row.

    With ``widened`` False they have the type of the tensor, and nothing is copied.
    """
    tensor = real(tensor)
    rows, columns = extents(tensor)
    if not rows * columns:
        return
    if tensor.ndim < 2:
        tensor = tensor.reshape(1, columns)
    wide = working_type(tensor.dtype) if widened else tensor.dtype
    buffer = torch.empty(0 if tensor.dtype == wide else min(elements, rows * columns), dtype=wide)
    table = _table(tensor.dtype)
    height, width = max(1, elements // columns), min(columns, elements)
    for row in range(0, rows, height):
        # Rows of a tensor that is not contiguous are copied here, a chunk at a time.
        taken = tensor[row : row + height].reshape(-1, columns)
        for column in range(0, columns, width):
            part = taken[:, column : column + width]
            if part.dtype != wide:
                room = buffer[: part.numel()].view(part.shape)
                if table is None:
                    room.copy_(part)
                else:
                    codes = part.reshape(-1).view(torch.uint8).int()
                    torch.index_select(table, 0, codes, out=room.view(-1))
                part = room
            yield Chunk(row, column, part)


def extents(tensor: Tensor) -> tuple[int, int]:
    """How many rows, and how many elements each has."""
    if tensor.ndim < 2:
        return 1, tensor.numel()
    return tensor.shape[0], math.prod(tensor.shape[1:])


def real(tensor: Tensor) -> Tensor:
    """Real and imaginary parts side by side in the last dimension."""
    if not tensor.is_complex():
        return tensor
    parts = torch.view_as_real(tensor.resolve_conj())
    return parts.flatten(-2) if tensor.ndim else parts


def working_type(dtype: torch.dtype) -> torch.dtype:
    """float32 where that holds all numbers of a type, float64 otherwise."""
    fits = dtype in (torch.float32, torch.float16, torch.bfloat16, *_ONE_BYTE)
    return torch.float32 if fits else torch.float64


def _table(dtype: torch.dtype) -> Tensor | None:
    """What each byte stands for: torch's own conversion is eight times slower than looking up."""
    if dtype not in _ONE_BYTE:
        return None
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()
