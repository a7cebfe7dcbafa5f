"""Keeps a store bounded: the newest rows as they are, older ones merged in pairs, again and again.

A merged row has the mean and the maximum of what it was made of, so that a spike stays visible
however often its row is merged. Each row is merged once per level, and each level has half as many:
over a run that comes to less than one merge per row.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from gradscope.store.contents import moved

__all__ = ["Keep", "Rows", "combined"]

_AT_ONCE = 64
_FEWEST = 64
_FLOAT = 4

Source = Callable[[int, int], "np.ndarray | None"]
"""Where the columns of a layout (its number) stand among those of an older one; see ``sources``."""


_New = tuple[int, int, int, int, int, bytes, bytes]
"""last, first, level, samples, layout, mean, maximum"""


class _Stored(NamedTuple):
    last: int
    first: int
    samples: int
    layout: int
    mean: bytes
    maximum: bytes | None


@dataclass(frozen=True, slots=True)
class Keep:
    """How much a store keeps.

    Attributes:
        rows: the newest samples, kept as they are.
        merged: older rows, each of several samples.
        size: bytes that all rows together may take; where they are so wide that these numbers take
            more, fewer are kept, but at least 64 of each kind.
        loss_blocks: blocks of 4096 steps whose losses are kept as they are.
        merged_loss_blocks: blocks of 4096 merged losses.
        notes: events, and alerts.
    """

    rows: int = 1000
    merged: int = 2000
    size: int = 200_000_000
    loss_blocks: int = 256
    merged_loss_blocks: int = 128
    notes: int = 10_000

    def for_columns(self, columns: int) -> tuple[int, int]:
        """How many samples and how many merged rows are kept of rows of so many numbers."""
        # A merged row has its maximum beside the mean.
        wanted = (self.rows + 2 * self.merged) * columns * _FLOAT
        share = min(1.0, self.size / wanted) if wanted else 1.0
        return (
            max(min(self.rows, _FEWEST), int(self.rows * share)),
            max(min(self.merged, _FEWEST), int(self.merged * share)),
        )


def combined(
    means: tuple[np.ndarray, np.ndarray],
    maxima: tuple[np.ndarray, np.ndarray],
    weights: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and maximum of two sets of numbers, element by element.

    The mean is over what is finite; only where nothing is, it is infinite or NaN. So one overflow
    does not hide the numbers around it, and the maximum still shows it.

    Args:
        means: two float32 arrays of one shape.
        maxima: the same.
        weights: how many numbers each stands for, broadcast to that shape.

    Returns:
        Two float32 arrays of that shape.
    """
    total = np.zeros(means[0].shape, np.float64)
    count = np.zeros(means[0].shape, np.float64)
    for mean, weight in zip(means, weights, strict=True):
        counted = np.isfinite(mean) * weight
        count += counted
        total += np.where(counted > 0, mean, 0.0) * counted
    some = count > 0
    mean = np.divide(total, count, out=total, where=some).astype(np.float32)
    np.copyto(mean, np.fmax(*means), where=~some)
    return mean, np.fmax(*maxima)


class Rows:
    """The rows of a store that is being written: which there are, and the merging of old ones.

    Levels are in order of steps: all rows of a level are older than those of the level below.
    """

    def __init__(self, connection: sqlite3.Connection, keep: Keep, source: Source) -> None:
        self._connection = connection
        self._keep = keep
        self._source = source
        self._levels: list[deque[int]] = [deque()]
        for last, level in connection.execute("SELECT last, level FROM rows ORDER BY last"):
            self._level(level).append(last)

    @property
    def last(self) -> int:
        """The last step that has a row; -1 without any."""
        return next((level[-1] for level in self._levels if level), -1)

    def add(self, rows: list[tuple[int, int, bytes]]) -> int:
        """Adds samples, as step, number of the layout and float32 bytes.

        Returns:
            How many were left out, because a later step is stored.
        """
        last = self.last
        wanted = []
        for step, layout, row in rows:
            if step > last:
                wanted.append((step, step, layout, row))
                self._levels[0].append(step)
                last = step
        self._connection.executemany(
            "INSERT INTO rows (last, first, level, samples, layout, mean)"
            " VALUES (?, ?, 0, 1, ?, ?)",
            wanted,
        )
        return len(rows) - len(wanted)

    def tidy(self, columns: int) -> None:
        """Merges old rows until no more are left than are to be kept."""
        newest, merged = self._keep.for_columns(columns)
        at_once = min(_AT_ONCE, 2 * max(1, newest // 16))
        while len(self._levels[0]) >= newest + at_once:
            self._merge(0, at_once)
        while sum(map(len, self._levels[1:])) > merged:
            levels = range(1, len(self._levels))
            lowest = next((level for level in levels if len(self._levels[level]) > 1), None)
            if lowest is None:  # one of each level, which are as many as the steps have bits
                break
            self._merge(lowest, min(at_once, len(self._levels[lowest]) // 2 * 2))

    def _level(self, level: int) -> deque[int]:
        while len(self._levels) <= level:
            self._levels.append(deque())
        return self._levels[level]

    def _merge(self, level: int, count: int) -> None:
        """Merges the ``count`` oldest rows of a level, an even number."""
        lasts = [self._levels[level].popleft() for _ in range(count)]
        steps = (lasts[0], lasts[-1])
        found = [
            _Stored(*row)
            for row in self._connection.execute(
                "SELECT last, first, samples, layout, mean, maximum FROM rows"
                " WHERE last BETWEEN ? AND ? ORDER BY last",
                steps,
            )
        ]
        self._connection.execute("DELETE FROM rows WHERE last BETWEEN ? AND ?", steps)
        self._connection.executemany(
            "INSERT INTO rows (last, first, level, samples, layout, mean, maximum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            self._merged(found, level + 1),
        )
        self._level(level + 1).extend(lasts[1::2])

    def _merged(self, found: list[_Stored], level: int) -> Iterator[_New]:
        pairs = list(zip(found[::2], found[1::2], strict=True))
        for layout, some in groupby(pairs, key=lambda pair: pair[1].layout):
            group = list(some)
            older = self._arrays([pair[0] for pair in group], layout)
            newer = self._arrays([pair[1] for pair in group], layout)
            samples = [
                np.array([[pair[one].samples] for pair in group], np.float64) for one in (0, 1)
            ]
            mean, maximum = combined(
                (older[0], newer[0]), (older[1], newer[1]), (samples[0], samples[1])
            )
            for index, (first, last) in enumerate(group):
                yield (
                    last.last,
                    first.first,
                    level,
                    first.samples + last.samples,
                    layout,
                    mean[index].tobytes(),
                    maximum[index].tobytes(),
                )

    def _arrays(self, rows: list[_Stored], layout: int) -> tuple[np.ndarray, np.ndarray]:
        """Means and maxima of rows, ``(rows, columns)`` as of a layout."""
        means, maxima = [], []
        for row in rows:
            source = None if row.layout == layout else self._source(row.layout, layout)
            mean = np.frombuffer(row.mean, np.float32)
            maximum = mean if row.maximum is None else np.frombuffer(row.maximum, np.float32)
            means.append(moved(mean[None], source)[0])
            maxima.append(moved(maximum[None], source)[0])
        return np.stack(means), np.stack(maxima)
