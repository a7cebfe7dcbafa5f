"""Whether boxes fill a box exactly, by arithmetic on their corners alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Box", "tiles"]

_ROUNDS: Final = 64
"""Cuts inside of cuts; each dimension of a device mesh adds one."""


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A part of a tensor.

    Attributes:
        offsets: of its first element, one for each dimension.
        sizes: in each dimension.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def volume(self) -> int:
        return math.prod(self.sizes)


def tiles(boxes: Sequence[Box], whole: Box) -> bool:
    """Whether the boxes fill the whole, without a gap and without an overlap.

    They have to be what cutting the whole in two, and the parts in two, can lead to, as every
    sharding does. Boxes that fill it in another way, such as a pinwheel, are taken for a fault.
    """
    rank = len(whole.sizes)
    if any(len(box.sizes) != rank or len(box.offsets) != rank for box in boxes):
        return False
    pending = [(list(boxes), whole, 0)]
    while pending:
        inside, space, depth = pending.pop()
        if len(inside) == 1 and inside[0] == space:
            continue
        parts = _cut(inside, space) if depth < _ROUNDS else None
        if parts is None:
            return False
        pending.extend((part, slab, depth + 1) for part, slab in parts)
    return True


def _cut(boxes: list[Box], space: Box) -> list[tuple[list[Box], Box]] | None:
    """The boxes in slabs, along the first dimension that no box lies across all cuts of."""
    for dimension, size in enumerate(space.sizes):
        start = space.offsets[dimension]
        parts: list[tuple[list[Box], Box]] = []
        inside: list[Box] = []
        end = start
        for box in sorted(boxes, key=lambda box: box.offsets[dimension]):
            first = box.offsets[dimension]
            if inside and first >= end:
                parts.append((inside, _slab(space, dimension, start, end)))
                inside, start = [], end
            inside.append(box)
            end = max(end, first + box.sizes[dimension])
        parts.append((inside, _slab(space, dimension, start, end)))
        if end != space.offsets[dimension] + size:
            return None
        if len(parts) > 1:
            return parts
    return None


def _slab(space: Box, dimension: int, start: int, end: int) -> Box:
    offsets, sizes = list(space.offsets), list(space.sizes)
    offsets[dimension], sizes[dimension] = start, end - start
    return Box(tuple(offsets), tuple(sizes))
