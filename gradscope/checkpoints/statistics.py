"""The numbers that are taken of one stored tensor, in a single pass over the file.

A checkpoint is larger than any cache and often than memory, so reading it is what costs. It is
gone through in chunks that stay in cache, and each chunk with the few operations that torch does
at the speed of the cache: norms, sums, extremes. Comparisons and counts are twenty times slower,
and are made only where the norms show that there is something to find: a row whose norm is not
finite, or is zero, or that has the norm and the sum of another row.

A row is an index of dimension 0. For linear layers and convolutions that is a unit, for an
embedding an entry. For transposed convolutions and for the Conv1D of GPT-2 it is an input: nothing
in a tensor tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from gradscope.stored import TensorStatistics

__all__ = ["Chunk", "chunks", "tensor_statistics"]

# Two megabytes of float32 stay in cache while they are gone through again; with less, the calls
# themselves cost as much.
_CHUNK = 1 << 19

# Of how many elements squares are added up in float32; sums of these are float64. From 32,768
# elements on torch divides a sum among threads.
_PIECE, _LONGEST = 1 << 12, 1 << 14

# In between, float32 holds the squares of all elements that matter; others are taken in float64.
_TINY, _HUGE = 2.0**-100, 2.0**100

# Below this share of the squared mean, rounding of float32 sums shows in the variance.
_CANCELLATION = 1e-3

# A sample that says whether a matrix is full, at about the cost of reading two megabytes.
_RANK_ROWS, _RANK_COLUMNS = 64, 1024

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


def chunks(tensor: Tensor, elements: int = _CHUNK) -> Iterator[Chunk]:
    """The tensor in parts of at most so many elements; one of fewer dimensions is a single row."""
    tensor = _real(tensor)
    rows, columns = _extents(tensor)
    if not rows * columns:
        return
    if tensor.ndim < 2:
        tensor = tensor.reshape(1, columns)
    wide = torch.float32 if _fits_float32(tensor.dtype) else torch.float64
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


def tensor_statistics(tensor: Tensor, *, rank: bool = True) -> TensorStatistics:
    """What is said of a tensor on the CPU, of any type, read once and not written to.

    The effective rank costs a fraction of a millisecond whatever the size, which is more than all
    the rest for a tensor below a megabyte; ``rank`` tells whether it is wanted.
    """
    stored, tensor = tensor, _real(tensor.detach())
    rows, columns = _extents(tensor)
    elements = rows * columns
    if not elements:
        rows = tensor.shape[0] if tensor.ndim > 1 else 0
        return TensorStatistics(0, math.nan, math.nan, math.nan, 0.0, 0, None, rows)
    sums = _gone_through(tensor)
    finite = elements - sums.nonfinite
    mean = float(sums.total.sum()) / finite if finite else math.nan
    square = float(sums.squares.sum()) / finite if finite else math.nan
    variance = square - mean * mean
    if variance < _CANCELLATION * mean * mean:
        variance = _second_look(tensor, mean) / finite
    whole = TensorStatistics(
        elements=elements,
        rms=math.sqrt(square) if finite else math.nan,
        mean=mean,
        std=math.sqrt(variance) if finite else math.nan,
        peak=sums.peak,
        nonfinite=sums.nonfinite,
        first_nonfinite=None if sums.first is None else _place(stored, *sums.first),
    )
    if tensor.ndim < 2:
        return whole
    norms = sums.squares[~sums.wrong].sqrt_() if sums.nonfinite else sums.squares.sqrt()
    usual = float(norms.mean()) if len(norms) else 0.0
    return replace(
        whole,
        rows=rows,
        zero_rows=int((sums.squares == 0).logical_and_(~sums.wrong).sum()) / rows,
        duplicate_rows=_duplicates(tensor, sums) / rows,
        row_spread=float(norms.std(correction=0)) / usual if usual else 0.0,
        effective_rank=_effective_rank(tensor) if rank else None,
    )


@dataclass(slots=True)
class _Sums:
    """Over the finite elements of each row; (rows,), float64.

    Attributes:
        wrong: rows with an element that is not finite.
        first: row, and place in it, of the first such element.
    """

    squares: Tensor
    total: Tensor
    wrong: Tensor
    peak: float = 0.0
    nonfinite: int = 0
    first: tuple[int, int] | None = None


def _gone_through(tensor: Tensor) -> _Sums:
    """One pass; what float32 does not tell is looked at again, row by row."""
    rows, columns = _extents(tensor)
    wide = torch.float32 if _fits_float32(tensor.dtype) else torch.float64
    # A row is added up in pieces, which torch does not divide among threads: equal rows get equal
    # sums to the last bit wherever they stand, and float32 does for each piece.
    whole, rest = divmod(columns, _PIECE) if columns > _LONGEST else (0, columns)
    norms, sums = torch.empty(2, rows, whole + (rest > 0), dtype=wide)
    extremes = []
    for chunk in chunks(tensor):
        values, first = chunk.values, chunk.column // _PIECE
        extremes.append(torch.aminmax(values))
        parts = {first: values.unsqueeze(1)}
        if whole:
            count = values.shape[1] // _PIECE
            end = count * _PIECE
            parts = {whole: values[:, end:].unsqueeze(1)}
            parts[first] = values[:, :end].unflatten(1, (count, _PIECE))
        for at, part in parts.items():
            if part.numel():
                place = chunk.rows, slice(at, at + part.shape[1])
                torch.linalg.vector_norm(part, dim=2, out=norms[place])
                torch.sum(part, dim=2, out=sums[place])
    low, high = (torch.stack(each).double() for each in zip(*extremes, strict=True))
    found = _Sums(
        norms.double().square_().sum(dim=1),
        sums.double().sum(dim=1),
        torch.zeros(rows, dtype=torch.bool),
        peak=float(torch.maximum(-low, high).amax()),
    )
    usual = (found.squares > _TINY) & (found.squares < _HUGE)
    if found.peak and not bool(usual.all()):
        _look_closer(tensor, (~usual).nonzero().squeeze(1), found)
    if found.nonfinite:
        found.peak = max(
            float(chunk.values.nan_to_num(0.0, 0.0, 0.0).abs().amax()) for chunk in chunks(tensor)
        )
    return found


def _look_closer(tensor: Tensor, odd: Tensor, found: _Sums) -> None:
    """Sums of rows that are zero, not finite, or have squares out of the range of float32."""
    columns, flat = _extents(tensor)[1], _as_rows(tensor)
    found.squares[odd] = found.total[odd] = 0.0
    for some in odd.split(max(1, _CHUNK // columns)):
        # A row that is longer than a chunk is alone among ``some``.
        for column in range(0, columns, _CHUNK):
            values = flat[some, column : column + _CHUNK].double()
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
                found.total[some[at]] += values[at].sum()


def _second_look(tensor: Tensor, mean: float) -> float:
    """Sum of the squared deviations of the finite elements from their mean."""
    deviations = 0.0
    for chunk in chunks(tensor):
        values = chunk.values.double().sub_(mean).flatten()
        square = float(torch.dot(values, values))
        if not math.isfinite(square):
            values = values[values.isfinite()]
            square = float(torch.dot(values, values))
        deviations += square
    return deviations


def _duplicates(tensor: Tensor, sums: _Sums) -> int:
    """How many rows equal another one.

    Candidates share norm and sum to the last bit; among them, an integer projection of their bits
    brings equal ones side by side, which are then compared.
    """
    columns = _extents(tensor)[1]
    key = sums.squares.view(torch.int64) * _ODD + sums.total.view(torch.int64)
    index = _with_a_twin(key)
    index = index[(sums.squares[index] != 0) & ~sums.wrong[index]]
    if not len(index):
        return 0
    flat = _as_rows(tensor)
    height = max(1, _CHUNK // columns)
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
    rows, columns = _extents(tensor)
    if rows < 2 or columns < 2:
        return None
    sample = _as_rows(tensor, _evenly(_RANK_ROWS, rows))
    if columns > _RANK_COLUMNS:
        sample = sample[:, _evenly(_RANK_COLUMNS, columns)]
    sample = sample.double()
    largest = float(sample.abs().amax())
    if not 0.0 < largest < math.inf:
        return None
    sample /= largest
    gram = sample @ sample.T if sample.shape[0] <= sample.shape[1] else sample.T @ sample
    values = torch.linalg.eigvalsh(gram).clamp_(min=0.0).sqrt_()
    entropy = torch.special.entr(values / values.sum()).sum()
    return float(entropy.exp()) / len(gram)


def _evenly(count: int, extent: int) -> Tensor:
    count = min(count, extent)
    return torch.arange(count) * extent // count


def _as_rows(tensor: Tensor, index: Tensor | None = None) -> Tensor:
    """(rows, elements), all or those of ``index``; only these are copied."""
    if tensor.ndim < 2:
        tensor = tensor.reshape(1, -1)
    if index is None and not (tensor.ndim == 2 or tensor.is_contiguous()):
        tensor = tensor.contiguous()
    taken = tensor if index is None else tensor[index]
    return taken.flatten(1)


def _extents(tensor: Tensor) -> tuple[int, int]:
    """How many rows, and how many elements each has."""
    if tensor.ndim < 2:
        return 1, tensor.numel()
    return tensor.shape[0], math.prod(tensor.shape[1:])


def _real(tensor: Tensor) -> Tensor:
    """Real and imaginary parts side by side in the last dimension."""
    if not tensor.is_complex():
        return tensor
    parts = torch.view_as_real(tensor.resolve_conj())
    return parts.flatten(-2) if tensor.ndim else parts


def _fits_float32(dtype: torch.dtype) -> bool:
    return dtype in (torch.float32, torch.float16, torch.bfloat16, *_ONE_BYTE)


def _table(dtype: torch.dtype) -> Tensor | None:
    """What each byte stands for: torch's own conversion is eight times slower than looking up."""
    if dtype not in _ONE_BYTE:
        return None
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()


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
