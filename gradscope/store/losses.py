"""The losses of all steps, in blocks: 4 bytes a step, older ones merged in pairs.

A block of level k has 4096 values, each of 2^k steps, and stands where its first step says: two
neighbours of a level fill one block of the level above. Steps without a loss are NaN.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np

from gradscope.store.retention import Keep, combined

__all__ = ["BLOCK", "Losses", "ends", "last_loss", "loss_values"]

BLOCK = 4096
"""Values in a block."""

_FLOAT = 4

_LEVELS = 48
"""More than any run can reach; with 12 bits of a block's values, all that int64 has room for."""


@dataclass(slots=True)
class _Tail:
    """The block that is being filled: its number, its values, and which of them are set."""

    block: int
    values: np.ndarray
    first: int = BLOCK
    end: int = 0
    changed: bool = False


def ends(level: int, block: int, offset: int, count: int) -> np.ndarray:
    """The last step of each value of a block, int64 of shape ``(count,)``."""
    values = np.arange(offset + 1, offset + count + 1, dtype=np.int64)
    return ((block * BLOCK + values) << level) - 1


def unpacked(mean: bytes, maximum: bytes | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and maximum of a block's values; at level 0 they are the same."""
    values = np.frombuffer(mean, np.float32)
    return values, values if maximum is None else np.frombuffer(maximum, np.float32)


def loss_values(
    level: int, block: int, offset: int, mean: bytes, maximum: bytes | None, *, maximal: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Last steps, means or maxima, and numbers of steps of a block's values."""
    if not 0 <= level < _LEVELS:
        raise ValueError(f"a block of losses of level {level}")
    values = unpacked(mean, maximum)[maximal]
    steps = ends(level, block, offset, len(values))
    return steps, values, np.full(len(values), 1 << level)


def last_loss(connection: sqlite3.Connection) -> int:
    """The last step that losses were stored of; -1 without any."""
    return max(
        (
            int(ends(level, block, offset, size // _FLOAT)[-1])
            for level, block, offset, size in connection.execute(
                "SELECT level, block, offset, length(mean) FROM losses ORDER BY level, block DESC"
                " LIMIT 1"
            )
        ),
        default=-1,
    )


class Losses:
    """The losses of a store that is being written."""

    def __init__(self, connection: sqlite3.Connection, keep: Keep) -> None:
        self._connection = connection
        self._keep = keep
        self._levels: list[list[int]] = [[]]
        for level, block in connection.execute("SELECT level, block FROM losses ORDER BY block"):
            self._level(level).append(block)
        self._tail: _Tail | None = None
        self._next = last_loss(connection) + 1

    def add(self, first_step: int, values: np.ndarray) -> None:
        """Adds the losses of consecutive steps; those of steps that are not new are left out."""
        skipped = max(0, self._next - first_step)
        step, values = first_step + skipped, values[skipped:]
        while len(values):
            tail = self._open(step // BLOCK)
            offset = step % BLOCK
            some = values[: BLOCK - offset]
            tail.values[offset : offset + len(some)] = some
            tail.first = min(tail.first, offset)
            tail.end = max(tail.end, offset + len(some))
            tail.changed = True
            step, values = step + len(some), values[len(some) :]
            self._next = step

    def tidy(self) -> None:
        """Writes what was added, and merges old blocks until no more are left than are kept."""
        self._write_tail()
        while len(self._levels[0]) > self._keep.loss_blocks:
            self._merge(0)
        while sum(len(blocks) for _, blocks in self._merged()) > self._keep.merged_loss_blocks:
            lowest = next((level for level, blocks in self._merged() if len(blocks) > 1), None)
            if lowest is None:
                break
            self._merge(lowest)

    def cut(self, first_step: int) -> None:
        """Removes the losses of a step and those after it, and merged values that reach there."""
        found = self._connection.execute(
            "SELECT level, block, offset, mean, maximum FROM losses"
            " WHERE (((block + 1) * ?) << level) > ?",
            (BLOCK, first_step),
        ).fetchall()
        for level, block, offset, mean, maximum in found:
            values, maxima = unpacked(mean, maximum)
            left = int((ends(level, block, offset, len(values)) < first_step).sum())
            if left:
                self._put(level, block, offset, values[:left], maxima[:left])
            else:
                self._remove(level, block)
        self._tail = None
        self._next = min(self._next, first_step)

    def _merged(self) -> list[tuple[int, list[int]]]:
        return [(level, blocks) for level, blocks in enumerate(self._levels) if level and blocks]

    def _level(self, level: int) -> list[int]:
        while len(self._levels) <= level:
            self._levels.append([])
        return self._levels[level]

    def _open(self, block: int) -> _Tail:
        """The block to write to, as it is stored or empty."""
        if self._tail is not None and self._tail.block == block:
            return self._tail
        self._write_tail()
        self._tail = tail = _Tail(block, np.full(BLOCK, np.nan, np.float32))
        if block in self._levels[0]:
            offset, values, _ = self._get(0, block)
            tail.first, tail.end = offset, offset + len(values)
            tail.values[tail.first : tail.end] = values
        return tail

    def _write_tail(self) -> None:
        tail = self._tail
        if tail is None or not tail.changed:
            return
        values = tail.values[tail.first : tail.end]
        self._put(0, tail.block, tail.first, values, values)
        tail.changed = False

    def _get(self, level: int, block: int) -> tuple[int, np.ndarray, np.ndarray]:
        offset, mean, maximum = self._connection.execute(
            "SELECT offset, mean, maximum FROM losses WHERE level = ? AND block = ?", (level, block)
        ).fetchone()
        return offset, *unpacked(mean, maximum)

    def _put(
        self, level: int, block: int, offset: int, mean: np.ndarray, maximum: np.ndarray
    ) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO losses (level, block, offset, mean, maximum)"
            " VALUES (?, ?, ?, ?, ?)",
            (level, block, offset, mean.tobytes(), maximum.tobytes() if level else None),
        )
        blocks = self._level(level)
        if block not in blocks:
            blocks.append(block)
            blocks.sort()

    def _remove(self, level: int, block: int) -> None:
        self._connection.execute("DELETE FROM losses WHERE level = ? AND block = ?", (level, block))
        self._level(level).remove(block)

    def _full(self, level: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """All 4096 values of a block and their maxima, NaN where there are none."""
        mean, maximum = np.full((2, BLOCK), np.nan, np.float32)
        if block in self._level(level):
            offset, values, maxima = self._get(level, block)
            mean[offset : offset + len(values)] = values
            maximum[offset : offset + len(values)] = maxima
        return mean, maximum

    def _merge(self, level: int) -> None:
        """Merges the oldest block of a level and its neighbour into one of the level above."""
        parent = self._levels[level][0] // 2
        halves = [self._full(level, block) for block in (2 * parent, 2 * parent + 1)]
        pairs, maxima = (
            np.concatenate([half[which] for half in halves]).reshape(BLOCK, 2) for which in (0, 1)
        )
        one = np.ones(1)
        mean, maximum = combined(
            (pairs[:, 0], pairs[:, 1]), (maxima[:, 0], maxima[:, 1]), (one, one)
        )
        # What a resumed run left of the parent.
        before, before_maximum = self._full(level + 1, parent)
        np.copyto(mean, before, where=np.isnan(mean))
        np.copyto(maximum, before_maximum, where=np.isnan(maximum))
        for block in (2 * parent, 2 * parent + 1):
            if block in self._levels[level]:
                self._remove(level, block)
        known = np.flatnonzero(~np.isnan(mean))
        first, end = (int(known[0]), int(known[-1]) + 1) if len(known) else (0, BLOCK)
        self._put(level + 1, parent, first, mean[first:end], maximum[first:end])
