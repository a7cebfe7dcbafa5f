"""Sums over the rows of a parameter and of what an optimizer keeps for it, read side by side.

float32 holds most sums. Where one of a row's is out of its range, which small gradients have when
they are squared, the row is summed again in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from gradscope.checkpoints.checkpoint import StoredTensor
from gradscope.checkpoints.evidence.chunks import chunks
from gradscope.checkpoints.evidence.row_sums import row_squares, row_totals
from gradscope.checkpoints.storage.paging import looked_at, release

__all__ = ["MomentSums", "Moments", "moment_sums", "norm"]

# The chunks of three tensors and what is calculated of them stay in cache together.
_CHUNK: Final = 1 << 18

# After so many elements, or a row, memory that shows a file is given back.
_BLOCK: Final = 1 << 22

# In between, float32 holds the squares of all elements that matter.
_TINY, _HUGE = 2.0**-100, 2.0**100

# Fewer elements are taken in float64 at once.
_SMALL: Final = 1 << 13

# A longer vector is no bias but parameters laid side by side, and one row.
_LONGEST_VECTOR: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Moments:
    """What an optimizer keeps for a parameter.

    Attributes:
        second: moment, or None where the first has to stand for it.
        first: moment, or None.
        weight: the parameter, or None.
        second_scale, first_scale: what undoes that the moments started at zero.
        decay: coupled weight decay, to be taken out.
        eps: added to the root of the second moment.
        squared: whether the second moment is one of squares.
    """

    second: StoredTensor | None
    first: StoredTensor | None
    weight: StoredTensor | None
    second_scale: float = 1.0
    first_scale: float = 1.0
    decay: float = 0.0
    eps: float = 0.0
    squared: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter, as the moments have it."""
        led = self.second if self.second is not None else self.first
        if led is None:
            raise ValueError("one of the moments is needed")
        return led.shape


@dataclass(frozen=True, slots=True)
class MomentSums:
    """Over the rows; of a vector, such as a bias, each element is one. All (rows,), float64.

    Attributes:
        second: of what the second moment estimates, squares of the gradient; None without it.
        first: squares of the mean gradient; None where no first moment is kept.
        weight: squares of the parameter; None where its shape is not that of the moments.
        step: squares of the step that the moments imply at a learning rate of 1; None where no
            first moment is kept.
        columns: elements of a row.
    """

    second: Tensor | None
    first: Tensor | None
    weight: Tensor | None
    step: Tensor | None
    columns: int


def moment_sums(moments: Moments) -> MomentSums:
    """Reads the moments and the weight once, and gives their memory back on the way.

    Raises:
        CheckpointError: the file has changed or cannot be read any more.
    """
    shape = moments.shape
    tensors = [
        None if each is None or each.shape != shape else (each, _by_rows(each))
        for each in (moments.second, moments.first, moments.weight)
    ]
    rows, columns = next(
        (len(each[1]), max(1, math.prod(each[1].shape[1:]))) for each in tensors if each is not None
    )
    there = [each is not None for each in tensors]
    sums = [torch.zeros(rows, dtype=torch.float64) if each else None for each in (*there, there[1])]
    height = max(1, _BLOCK // columns)
    if rows * columns > _SMALL:
        for at, parts in _together(tensors, (slice(i, i + height) for i in range(0, rows, height))):
            _add(_summed(parts, moments), sums, at)
        odd = torch.stack([_is_odd(each) for each in sums if each is not None]).any(dim=0)
    else:
        odd = torch.ones(rows, dtype=torch.bool)
    again = odd.nonzero().squeeze(1)
    for each in sums:
        if each is not None:
            each[again] = 0.0
    for at, parts in _together(tensors, again.split(height) if len(again) else ()):
        enough = rows * columns > _SMALL and _are_still(parts, moments)
        _add(_summed(parts if enough else parts.exact(), moments), sums, at)
    second, first, weight, step = sums
    if second is not None:
        second.clamp_(min=0.0)
    return MomentSums(second, first, weight, step, columns)


def norm(stored: StoredTensor) -> float:
    """Of all elements."""
    total = 0.0
    with looked_at(stored) as tensor:
        for chunk in chunks(tensor):
            square = float(row_squares(chunk.values).sum())
            if not _TINY < square < _HUGE:
                square = float(chunk.values.double().square().sum())
            total += square
    return math.sqrt(total)


class _Parts(NamedTuple):
    """The same part of each, (rows, elements); None where there is no such tensor."""

    second: Tensor | None
    first: Tensor | None
    weight: Tensor | None

    def exact(self) -> _Parts:
        return _Parts(*(None if each is None else each.double() for each in self))


_Found = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _add(found: _Found, sums: Sequence[Tensor | None], at: slice | Tensor) -> None:
    for total, part in zip(sums, found, strict=True):
        if total is not None and part is not None:
            total[at] += part


def _are_still(parts: _Parts, moments: Moments) -> bool:
    """Whether no gradient ever reached some rows: float32 holds their zeros.

    Of a table that is looked up these may be most.
    """
    kept = [each for each in parts[:2] if each is not None]
    if moments.decay or (len(kept) == 2 and not moments.eps > 0.0):
        return False
    if not all(map(_is_zero, kept)):
        return False
    return parts.weight is None or _is_zero(parts.weight[_is_odd(row_squares(parts.weight))])


def _is_odd(sums: Tensor) -> Tensor:
    return ~((sums > _TINY) & (sums < _HUGE))


def _is_zero(values: Tensor) -> bool:
    return not values.numel() or not any(map(bool, torch.aminmax(values)))


def _summed(parts: _Parts, moments: Moments) -> _Found:
    """In the type of the parts."""
    v, m, w = parts
    scale, rate, decay = moments.second_scale, moments.first_scale, moments.decay
    second = first = step = None
    if m is not None:
        first = row_squares(m).mul_(rate**2)
        step = first.clone() if v is None else _step(v, m, moments)
    if v is not None and moments.squared:
        second = row_totals(v).mul_(scale)
    elif v is not None:
        second = row_squares(v).mul_(scale**2)
    if decay and w is not None and m is not None:
        # E[g^2] where E[(g + d)^2] is kept, d = decay * w, and E[g + d] is the first moment, whose
        # noise makes single elements negative.
        decayed, mean = w * decay, m * rate
        if v is not None:
            square = v * scale if moments.squared else (v * scale).square_()
            second = row_totals(square.sub_((2 * mean).sub_(decayed).mul_(decayed)))
        first = row_squares(mean.sub_(decayed))
    return second, first, None if w is None else row_squares(w), step


def _step(v: Tensor, m: Tensor, moments: Moments) -> Tensor:
    """Squares of m / (sqrt(v) + eps), each of them scaled, added up over rows."""
    scale = math.sqrt(moments.second_scale) if moments.squared else moments.second_scale
    root = v.sqrt() if moments.squared else v.abs()
    ratio = torch.div(m, root.add_(moments.eps / scale))
    return row_squares(ratio).mul_((moments.first_scale / scale) ** 2)


def _by_rows(stored: StoredTensor) -> Tensor:
    """The tensor as (rows, ...)."""
    tensor = stored.load()
    if tensor.ndim > 1:
        return tensor
    return tensor.reshape(1, -1) if tensor.numel() > _LONGEST_VECTOR else tensor.reshape(-1, 1)


def _together(
    tensors: list[tuple[StoredTensor, Tensor] | None], blocks: Iterable[slice | Tensor]
) -> Iterator[tuple[slice | Tensor, _Parts]]:
    """The same parts of some rows of tensors of one shape, and which rows these are.

    Args:
        tensors: as they are stored, and as rows.
        blocks: of rows, in their order; after each, memory that shows a file is given back.
    """
    for block in blocks:
        ways = [None if each is None else chunks(each[1][block], _CHUNK) for each in tensors]
        while True:
            parts = [None if way is None else next(way, None) for way in ways]
            at = next((part.rows for part in parts if part is not None), None)
            if at is None:
                break
            values = (None if part is None else part.values for part in parts)
            if isinstance(block, slice):
                yield slice(block.start + at.start, block.start + at.stop), _Parts(*values)
            else:
                yield block[at], _Parts(*values)
        shown = block if isinstance(block, slice) else slice(int(block[0]), int(block[-1]) + 1)
        for each in tensors:
            if each is not None:
                release(each[0], each[1][shown])
