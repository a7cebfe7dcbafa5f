"""Sums over rows at the speed of the cache, equal to the last bit where rows are equal.

Equal rows are found by their sums, so that these must not depend on where a row stands: not on
how its memory is aligned, nor on how many rows are summed with it or by how many threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

__all__ = ["PIECE", "row_squares", "row_totals"]

PIECE: Final = 1 << 12
"""Elements that are added up in the type that they have; sums of these are float64."""

# Up to here a row is one piece. From 10,000 elements on sums may be divided among threads.
_LONGEST: Final = 1 << 13

# A library may take the elements before the next cache line by themselves: rows that begin alike
# with regard to these are summed alike.
_LINE: Final = 64

# Of shorter rows the calls cost more than the sums.
_SHORT: Final = 256


def row_totals(values: Tensor) -> Tensor:
    """Sums of ``(rows, elements)``; ``(rows,)``, float64."""
    return _in_pieces(values, lambda part: part.sum(dim=-1))


def row_squares(values: Tensor) -> Tensor:
    """Sums of the squares of ``(rows, elements)``; ``(rows,)``, float64.

    The values are float32, float64 or bfloat16. What does not fit into float32 or float64 is
    infinite, or zero. Of bfloat16 each piece of a row is rounded to its eight bits, and the sum
    of many pieces is right to 2e-3 over the root of their number.
    """
    return _in_pieces(values, _squares)


def _in_pieces(values: Tensor, summed: Callable[[Tensor], Tensor]) -> Tensor:
    columns = values.shape[1]
    if columns <= _LONGEST:
        return summed(values).double()
    count = columns // PIECE
    end = count * PIECE
    total = summed(values[:, :end].unflatten(1, (count, PIECE))).double().sum(dim=1)
    return total.add_(summed(values[:, end:])) if end < columns else total


def _squares(values: Tensor) -> Tensor:
    # Norms of torch run at a third of the speed of NumPy's products of a row with itself.
    rounded = values.dtype == torch.bfloat16
    if rounded or values.shape[-1] < _SHORT or not _begin_alike(values):
        norms: Tensor = torch.linalg.vector_norm(values, dim=-1)
        return norms.double().square_() if rounded else norms.square_()
    array = values.numpy()
    with np.errstate(all="ignore"):  # the caller looks at what overflows
        products = np.matmul(array[..., None, :], array[..., None])
    return torch.from_numpy(products[..., 0, 0])


def _begin_alike(values: Tensor) -> bool:
    steps = zip(values.shape[:-1], values.stride()[:-1], strict=True)
    size = values.element_size()
    return values.stride(-1) == 1 and all(
        count == 1 or step * size % _LINE == 0 for count, step in steps
    )
