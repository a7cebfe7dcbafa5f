"""Rows of a weight that equal each other: units that start alike, and that no gradient tells apart.

Rows are sorted by a random projection, and only neighbours whose projections agree are compared
element by element. No pair of rows is formed where no two are alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.profile.statistics import wide

__all__ = ["Rows"]

# Elements that are looked at in one go.
_PIECE, _LARGE_PIECE = 1 << 16, 1 << 23

# Two sums of the same numbers in float64, each in an order of its own, differ by less than this.
_ROUNDING = 1e-12


class Rows:
    """The rows of one parameter (along dimension 0) that are alike so far.

    Args:
        weight: before the first step; at least two dimensions.

    Attributes:
        spread: standard deviation of the rows' lengths over their mean; NaN where all are zero.
    """

    def __init__(self, weight: Tensor) -> None:
        rows = _flat(weight)
        self._count = len(rows)
        key, length = _projected(rows)
        groups = _divided(rows, key, length, None, 0.0)
        alike = _not_alone(groups)
        self._duplicates = int((alike & (length != 0)).sum())
        self.spread = float(length.std(correction=0) / length.mean()) if self._count > 1 else 0.0
        # Only of the rows that still equal another one: their numbers, their groups, and whether
        # anything but zeros has been seen in them.
        self._index = alike.nonzero().squeeze(1)
        self._groups, self._seen = groups[alike], (length != 0)[alike]
        self._compared = False

    @property
    def alike(self) -> bool:
        """Whether there are any left whose gradients are to be compared."""
        return len(self._index) > 0

    def compare(self, gradient: Tensor) -> None:
        """Takes the gradient of one step; of sparse ones no row is said to equal another."""
        if gradient.layout != torch.strided:
            self._keep(torch.zeros_like(self._seen))
            return
        self._compared = True
        rows = _flat(gradient)[self._index]
        key, length = _projected(rows)
        # Backward passes may add up the same terms in another order for each row, so that half of
        # the digits have to do.
        tolerance = torch.finfo(gradient.dtype).eps ** 0.5
        self._groups = _divided(rows, key, length, self._groups, tolerance)
        # A row of zeros is a unit that is switched off; with a gradient, it is about to wake.
        asleep = ~self._seen
        self._keep(_not_alone(self._groups) & ~(asleep & (length != 0)))

    def _keep(self, kept: Tensor) -> None:
        self._index, self._groups = self._index[kept], self._groups[kept]
        self._seen = self._seen[kept]

    @property
    def duplicates(self) -> float:
        """The share of rows that are not all zero and equal another one."""
        return self._duplicates / self._count

    @property
    def symmetric(self) -> float:
        """The share of rows that equal another one, also in all gradients; 0 where none arrived."""
        return len(self._index) / self._count if self._compared else 0.0


def _flat(x: Tensor) -> Tensor:
    """(rows, elements) along dimension 0, real."""
    x = x.detach()
    return (torch.view_as_real(x) if x.is_complex() else x).flatten(1)


def _projected(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's product with a unit vector drawn at random, and its length; (rows,) each."""
    # A generator of its own: the global ones are the user's. The vector is always the same one.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64, device="cpu")
    direction = (direction / direction.norm()).to(rows.device, wide(rows))
    key, length = direction.new_empty(len(rows)), direction.new_empty(len(rows))
    most = _PIECE if rows.device.type == "cpu" else _LARGE_PIECE
    size = max(1, most // rows.shape[1])
    for start in range(0, len(rows), size):
        part = rows[start : start + size].to(wide(rows))
        key[start : start + size] = part @ direction
        length[start : start + size] = torch.linalg.vector_norm(part, dim=1)
    return key, length


def _divided(
    rows: Tensor, key: Tensor, length: Tensor, groups: Tensor | None, tolerance: float
) -> Tensor:
    """Divides groups of rows into groups of equal ones.

    Args:
        rows: (rows, elements).
        key, length: as of :func:`_projected`.
        groups: the number of each row's group; None where all are in one.
        tolerance: by how much of their length two equal rows may differ.

    Returns:
        The number of each row's group. A row with NaN or infinity equals none.
    """
    order = key.argsort(stable=True)
    if groups is not None:
        order = order[groups[order].argsort(stable=True)]
    before, after = order[:-1], order[1:]
    # What the projections differ by is no more than what the rows do.
    apart = (key[after] - key[before]).abs()
    same = apart <= max(tolerance, _ROUNDING) * length[before]
    if groups is not None:
        same &= groups[before] == groups[after]
    close = same.nonzero().squeeze(1)
    most = _PIECE if rows.device.type == "cpu" else _LARGE_PIECE
    for some in close.split(max(1, most // rows.shape[1])):
        one, other = rows[before[some]].to(key.dtype), rows[after[some]].to(key.dtype)
        difference = torch.linalg.vector_norm(one - other, dim=1)
        same[some] = difference <= tolerance * length[before[some]]
    found = torch.zeros_like(order)
    found[after] = (~same).long().cumsum(0)
    return found


def _not_alone(groups: Tensor) -> Tensor:
    """Which rows share their group with another one."""
    return groups.bincount()[groups] > 1
