"""The numbers that are taken of one stored tensor, in a single pass over the file.

A checkpoint is larger than any cache and often than memory, so reading it is what costs. It is
gone through in chunks that stay in cache, and of each row the sum of its squares is taken, which
runs at the speed at which memory is read. All else is looked at only where that shows that there
is something to find: a row whose squares are not finite, or zero, or as many as another row's.

A row is an index of dimension 0. For linear layers and convolutions that is a unit, for an
embedding an entry. For transposed convolutions and for the Conv1D of GPT-2 it is an input: nothing
in a tensor tells them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gradscope.checkpoints.evidence.chunks import CHUNK, chunks, extents, real
from gradscope.checkpoints.evidence.row_sums import row_squares
from gradscope.stored import TensorStatistics

__all__ = ["tensor_statistics"]

# Of fewer elements the calls are all that a vector costs: it is taken in float64 at once.
_SMALL = 1 << 13

# In between, float32 holds the squares of all elements that matter; others are taken in float64.
_TINY, _HUGE = 2.0**-100, 2.0**100

# A sample that says whether a matrix is full, at about the cost of reading two megabytes.
_RANK_ROWS, _RANK_COLUMNS = 64, 1024

# What need not be converted need not stay in cache either; with fewer the calls are felt.
_MANY, _STRETCH = 1 << 20, 1 << 24

# Rows that are alike begin alike; more of the beginning would be another read from memory.
_PROBES = 4


def tensor_statistics(tensor: Tensor, *, rank: bool = True) -> TensorStatistics:
    """What is said of a tensor on the CPU, of any type, read once and not written to.

    The effective rank costs a fraction of a millisecond whatever the size, which is more than all
    the rest for a tensor below a megabyte; ``rank`` tells whether it is wanted.
    """
    stored, tensor = tensor, real(tensor.detach())
    rows, columns = extents(tensor)
    elements = rows * columns
    if not elements:
        rows = tensor.shape[0] if tensor.ndim > 1 else 0
        return TensorStatistics(0, math.nan, 0, None, rows)
    if tensor.ndim < 2 and elements <= _SMALL and (found := _of_few(tensor)) is not None:
        return found
    sums = _gone_through(tensor)
    finite = elements - sums.nonfinite
    whole = TensorStatistics(
        elements=elements,
        rms=math.sqrt(float(sums.squares.sum()) / finite) if finite else math.nan,
        nonfinite=sums.nonfinite,
        first_nonfinite=None if sums.first is None else _place(stored, *sums.first),
    )
    if tensor.ndim < 2:
        return whole
    return replace(
        whole,
        rows=rows,
        zero_rows=int((sums.squares == 0).logical_and_(~sums.wrong).sum()) / rows,
        duplicate_rows=_duplicates(tensor, sums) / rows,
        effective_rank=_effective_rank(tensor) if rank else None,
    )


def _of_few(tensor: Tensor) -> TensorStatistics | None:
    """The same of a short vector; None where its squares are not finite."""
    values = tensor.reshape(-1).double().numpy()
    with np.errstate(all="ignore"):
        square = float(values @ values) / len(values)
    if not math.isfinite(square):
        return None
    return TensorStatistics(len(values), math.sqrt(square), 0, None)


@dataclass(slots=True)
class _Sums:
    """Over the finite elements of each row; (rows,), float64.

    Attributes:
        wrong: rows with an element that is not finite.
        first: row, and place in it, of the first such element.
    """

    squares: Tensor
    wrong: Tensor
    nonfinite: int = 0
    first: tuple[int, int] | None = None


def _gone_through(tensor: Tensor) -> _Sums:
    """One pass; what float32 does not tell is looked at again, row by row."""
    rows = extents(tensor)[0]
    found = _Sums(torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.bool))
    # torch's norms of bfloat16 are taken in float32 and then rounded, which so many even out.
    as_it_is = tensor.dtype == torch.float32 or (
        tensor.dtype == torch.bfloat16 and tensor.numel() >= _MANY
    )
    for chunk in chunks(tensor, _STRETCH if as_it_is else CHUNK, widened=not as_it_is):
        found.squares[chunk.rows] += row_squares(chunk.values)
    usual = (found.squares > _TINY) & (found.squares < _HUGE)
    if not bool(usual.all()):
        _look_closer(tensor, (~usual).nonzero().squeeze(1), found)
    return found


def _look_closer(tensor: Tensor, odd: Tensor, found: _Sums) -> None:
    """Sums of rows that are zero, not finite, or have squares out of the range of float32."""
    columns, flat = extents(tensor)[1], _as_rows(tensor)
    found.squares[odd] = 0.0
    for some in odd.split(max(1, CHUNK // columns)):
        # A row that is longer than a chunk is alone among ``some``.
        for column in range(0, columns, CHUNK):
            values = flat[some, column : column + CHUNK].double()
            if not values.any():
                continue
            finite = values.isfinite()
            if not bool(finite.all()):
                place = (~finite).nonzero()
                found.nonfinite += len(place)
                found.wrong[some] |= ~finite.all(dim=1)
                if found.first is None:
                    found.first = int(some[place[0, 0]]), column + int(place[0, 1])
                values = values.where(finite, 0.0)
            # Row by row, so that equal rows get equal sums whatever stands beside them.
            for at in values.any(dim=1).nonzero().flatten().tolist():
                found.squares[some[at]] += values[at].square().sum()


def _duplicates(tensor: Tensor, sums: _Sums) -> int:
    """How many rows equal another one.

    Candidates share norm and some elements to the last bit; among them, an integer projection of
    their bits brings equal ones side by side, which are then compared.
    """
    columns, flat = extents(tensor)[1], _as_rows(tensor)
    key = sums.squares.view(torch.int64)
    for probe in _bits(flat[:, :_PROBES]).long().unbind(dim=1):
        key = key * _ODD + probe
    index = _with_a_twin(key)
    index = index[(sums.squares[index] != 0) & ~sums.wrong[index]]
    if not len(index):
        return 0
    height = max(1, CHUNK // columns)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randint(-(2**62), 2**62, (columns,), generator=generator) * 2 + 1
    key = torch.cat(
        [(_bits(flat[some]).long() * direction).sum(dim=1) for some in index.split(height)]
    )
    order = key.argsort()
    index = index[order]
    same = (key[order][1:] == key[order][:-1]).nonzero().squeeze(1)
    equal = torch.zeros(len(index), dtype=torch.bool)
    for some in same.split(height):
        pairs = _bits(flat[index[some]]) == _bits(flat[index[some + 1]])
        found = some[pairs.all(dim=1)]
        equal[found] = equal[found + 1] = True
    return int(equal.sum())


# Mixes two numbers into one; a chance agreement costs one comparison.
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)


def _with_a_twin(key: Tensor) -> Tensor:
    """The indices whose key is another one's, too."""
    key, order = key.sort()
    same = key[1:] == key[:-1]
    if not bool(same.any()):
        return order[:0]
    alone = torch.ones(len(key), dtype=torch.bool)
    alone[1:] &= ~same
    alone[:-1] &= ~same
    return order[~alone]


def _bits(values: Tensor) -> Tensor:
    """Numbers as integers that are equal where these are; minus zero becomes zero."""
    if values.is_floating_point():
        values = values if values.dtype == torch.float64 else values.float()
        return (values + 0.0).view(torch.int64 if values.dtype == torch.float64 else torch.int32)
    return values


def _effective_rank(tensor: Tensor) -> float | None:
    rows, columns = extents(tensor)
    if rows < 2 or columns < 2:
        return None
    sample = tensor[_evenly(_RANK_ROWS, rows)].flatten(1)
    sample = sample[:, _evenly(_RANK_COLUMNS, columns)].double()
    largest = float(sample.abs().amax())
    if not 0.0 < largest < math.inf:
        return None
    sample = sample / largest  # what double() returns may be the tensor itself
    gram = sample @ sample.T if sample.shape[0] <= sample.shape[1] else sample.T @ sample
    values = torch.linalg.eigvalsh(gram).clamp_(min=0.0).sqrt_()
    entropy = torch.special.entr(values / values.sum()).sum()
    return float(entropy.exp()) / len(gram)


def _evenly(count: int, extent: int) -> Tensor | slice:
    """An index of at most so many places; a slice, which copies nothing, where that can be."""
    if extent <= count or extent % count == 0:
        return slice(None, None, max(1, extent // count))
    return torch.arange(count) * extent // count


def _as_rows(tensor: Tensor) -> Tensor:
    """(rows, elements)."""
    if tensor.ndim < 2:
        tensor = tensor.reshape(1, -1)
    if not (tensor.ndim == 2 or tensor.is_contiguous()):
        tensor = tensor.contiguous()
    return tensor.flatten(1)


def _place(stored: Tensor, row: int, column: int) -> tuple[int, ...]:
    """The index in the tensor as it is stored of an element of a row."""
    column = column // 2 if stored.is_complex() else column
    if stored.ndim < 2:
        return (column,) if stored.ndim else ()
    inner: list[int] = []
    for extent in reversed(stored.shape[1:]):
        column, at = divmod(column, extent)
        inner.insert(0, at)
    return (row, *inner)
