"""Writes batches of what a run has to say into its store, a transaction each."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gradscope.store.contents import Columns, columns_of, layout_from, of_layout, sources, written
from gradscope.store.forking import inside
from gradscope.store.losses import Losses
from gradscope.store.retention import Keep, Rows
from gradscope.training import Alert, Layout, RunInfo

__all__ = ["Item", "Recorder"]

Item = tuple[Any, ...]
"""The name of one of the recorder's methods, and its arguments."""

_MANY_LAYOUTS = 50


class Recorder:
    """One session of a store; used by one thread at a time."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        info: RunInfo,
        keep: Keep,
        first_step: int,
        *,
        continued: bool,
    ) -> None:
        """Adds a session, and removes what a continued store holds of its steps."""
        self._path = path
        self._connection = connection
        self._keep = keep
        now = time.time()
        with inside():
            connection.execute("BEGIN IMMEDIATE")
            try:
                if continued:
                    self._cut(first_step)
                self._session = connection.execute(
                    "INSERT INTO sessions (first_step, started, updated, info) VALUES (?, ?, ?, ?)",
                    (first_step, now, now, written(asdict(info))),
                ).lastrowid
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            self._load()

    def write(self, items: list[Item], dropped: int) -> None:
        """Stores all items or none.

        Raises:
            OSError: if the file was removed.
            sqlite3.Error: if it cannot be written.
        """
        if not self._path.exists():
            raise FileNotFoundError("it was removed while it was written")
        with inside():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._store(items)
                self._connection.execute(
                    "UPDATE sessions SET updated = ?, dropped = ? WHERE id = ?",
                    (time.time(), dropped + self.left_out, self._session),
                )
                self._connection.execute("COMMIT")
            except BaseException:
                self._recover()
                raise

    def end(self, ended: str, dropped: int) -> None:
        """Says that the session ended, and why."""
        self.write([("_ended", ended)], dropped)
        # One file, which can be read where nothing can be written. Not while somebody reads it.
        with inside(), suppress(sqlite3.Error):
            self._connection.execute("PRAGMA busy_timeout = 0")
            self._connection.execute("PRAGMA journal_mode = DELETE")

    def _store(self, items: list[Item]) -> None:
        rows = []
        for name, *arguments in items:
            if name == "row":
                layout, step, row = arguments
                rows.append((step, self._number(layout), row))
            else:
                getattr(self, name)(*arguments)
        if rows:
            self.left_out += self._rows.add(rows)
            self._rows.tidy(max(len(row) for _, _, row in rows) // 4)
            self._forget_layouts()
        self._losses.tidy()

    def losses(self, first_step: int, losses: bytes) -> None:
        self._losses.add(first_step, np.frombuffer(losses, np.float32))

    def alert(self, alert: Alert) -> None:
        self._connection.execute(
            "INSERT INTO alerts (code, step, closed, content) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET closed = excluded.closed, content = excluded.content",
            (alert.code, alert.step, alert.closed, written(asdict(alert))),
        )
        self._connection.execute(
            "DELETE FROM alerts WHERE rowid <= (SELECT max(rowid) FROM alerts) - ?",
            (self._keep.notes,),
        )

    def event(self, step: int, when: float, kind: str, data: str) -> None:
        added = self._connection.execute(
            "INSERT INTO events (step, time, kind, data) VALUES (?, ?, ?, ?)",
            (step, when, kind, data),
        ).lastrowid
        self._connection.execute(
            "DELETE FROM events WHERE id <= ?", ((added or 0) - self._keep.notes,)
        )

    def _ended(self, ended: str) -> None:
        self._connection.execute(
            "UPDATE sessions SET ended = ? WHERE id = ?", (ended, self._session)
        )

    def _load(self) -> None:
        """Reads what the store holds, as far as the next batches depend on it."""
        self.left_out = 0
        self._rows = Rows(self._connection, self._keep, self._source)
        self._losses = Losses(self._connection, self._keep)
        self._columns: dict[int, Columns] = {}
        self._sources: dict[tuple[int, int], np.ndarray | None] = {}
        self._layout: tuple[Layout | None, int] = (None, 0)

    def _recover(self) -> None:
        """Takes a batch back, of which nothing is to be kept in memory either."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        left_out = self.left_out
        self._load()
        self.left_out = left_out

    def _cut(self, first_step: int) -> None:
        """Removes all that a session which begins at a step will tell again."""
        self._connection.execute("DELETE FROM rows WHERE last >= ?", (first_step,))
        Losses(self._connection, self._keep).cut(first_step)
        self._connection.execute("DELETE FROM alerts WHERE step >= ?", (first_step,))
        self._connection.execute("UPDATE alerts SET closed = NULL WHERE closed >= ?", (first_step,))

    def _number(self, layout: Layout) -> int:
        """The number of a layout in the store, to which it is added if it is not there."""
        known, number = self._layout
        if known is layout:
            return number
        content = of_layout(layout)
        self._connection.execute("INSERT OR IGNORE INTO layouts (content) VALUES (?)", (content,))
        (number,) = self._connection.execute(
            "SELECT id FROM layouts WHERE content = ?", (content,)
        ).fetchone()
        self._columns[number] = columns_of(layout)
        self._layout = (layout, number)
        return int(number)

    def _source(self, old: int, new: int) -> np.ndarray | None:
        """Where the columns of one layout stand in rows of another."""
        if (old, new) not in self._sources:
            self._sources[old, new] = sources(self._columns_of(old), self._columns_of(new))
        return self._sources[old, new]

    def _columns_of(self, number: int) -> Columns:
        if number not in self._columns:
            (content,) = self._connection.execute(
                "SELECT content FROM layouts WHERE id = ?", (number,)
            ).fetchone()
            self._columns[number] = layout_from(content).columns
        return self._columns[number]

    def _forget_layouts(self) -> None:
        """Removes layouts that no row has any more, but for the first, which says whose run it is.

        Sites whose shapes depend on the data give many layouts.
        """
        if len(self._columns) < _MANY_LAYOUTS:
            return
        self._connection.execute(
            "DELETE FROM layouts WHERE id NOT IN (SELECT layout FROM rows)"
            " AND id > (SELECT min(id) FROM layouts)"
        )
        self._columns.clear()
        self._sources.clear()
        self._layout = (None, 0)
