"""Reads a run store, also while another process writes it, and never changes it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gradscope.errors import StoreError
from gradscope.store import schema
from gradscope.store.binning import binned
from gradscope.store.contents import (
    Columns,
    Event,
    Session,
    StoredLayout,
    alert_from,
    columns_of,
    info_from,
    layout_from,
    moved,
    sources,
)
from gradscope.store.losses import last_loss, loss_values
from gradscope.store.tables import pandas_table, polars_table
from gradscope.training import (
    PARAMETER_MEASURES,
    SITE_MEASURES,
    STEP_MEASURES,
    Alert,
    Layout,
    RunInfo,
)

__all__ = ["Run", "open_run"]

_BUSY = 5.0
"""Seconds that SQLite waits for a writer, as one that opens the store."""

_OF_THE_FILE = (
    sqlite3.Error,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
)

_NO_LAYOUT = StoredLayout(Layout((), ()), columns_of(Layout((), ())))


def open_run(path: str | Path) -> Run:
    """Opens a run store for reading.

    Raises:
        StoreError: if there is none at the path, or one that this version cannot read.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(
            f"There is no run store at {path}; 'gradscope run SCRIPT' and gradscope.Monitor("
            "..., store=PATH) write one."
        )
    if not schema.is_run_store(path):
        raise StoreError(f"{path} is not a run store of gradscope.")
    with _readable(path):
        connection, copy = _connected(path)
        try:
            if reason := schema.refusal(connection):
                raise StoreError(f"{path} {reason}. Update gradscope to read it.")
            return Run(path, connection, copy)
        except BaseException:
            connection.close()
            if copy is not None:
                copy.cleanup()
            raise


class Run:
    """A run as its store has it now: every access reads anew, so a live run can be followed.

    Series are of the steps that were sampled. Old samples are merged (see ``Keep``): such a row
    stands at the last of its steps and is their mean, or with ``maximum=True`` their maximum, in
    which a spike stays visible. With ``bins`` a series has at most so many points, each of equally
    many steps.

    All readers raise ``StoreError`` if the file turns out to be damaged.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        copy: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.path = path
        self._connection = connection
        self._copy = copy
        self._layouts: dict[int, StoredLayout] = {}
        self._query("SELECT count(*) FROM sessions")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()
        if self._copy is not None:
            self._copy.cleanup()

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The processes that wrote the run, in order; one more for each resume."""
        with _readable(self.path):
            return tuple(
                Session(first_step, started, updated, ended, dropped, info_from(info))
                for first_step, started, updated, ended, dropped, info in self._query(
                    "SELECT first_step, started, updated, ended, dropped, info FROM sessions"
                    " ORDER BY id"
                )
            )

    @property
    def info(self) -> RunInfo:
        """What the newest session was told."""
        return self._newest.info

    @property
    def updated(self) -> float:
        """When the run last gave a sign of life, Unix time in seconds."""
        return self._newest.updated

    @property
    def ended(self) -> str | None:
        """Why the run ended, "" if it finished; None while it runs, or if it was killed."""
        return self._newest.ended

    @property
    def dropped(self) -> int:
        """How many samples, pieces of losses, alerts and events could not be stored."""
        return sum(session.dropped for session in self.sessions)

    @property
    def layout(self) -> Layout:
        """Of the newest row; an empty one while there is none."""
        return self._newest_layout().layout

    @property
    def last_step(self) -> int:
        """The last step that is known of; -1 if none is."""
        (last,) = self._query("SELECT coalesce(max(last), -1) FROM rows")[0]
        with _readable(self.path):
            return max(int(last), last_loss(self._connection))

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """By the step at which they opened."""
        with _readable(self.path):
            return tuple(
                alert_from(content, closed)
                for content, closed in self._query(
                    "SELECT content, closed FROM alerts ORDER BY step, rowid"
                )
            )

    @property
    def events(self) -> tuple[Event, ...]:
        """In the order in which they happened."""
        with _readable(self.path):
            return tuple(
                Event(step, time, kind, json.loads(data))
                for step, time, kind, data in self._query(
                    "SELECT step, time, kind, data FROM events ORDER BY id"
                )
            )

    def losses(
        self, bins: int | None = None, *, maximum: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps, int64 of shape ``(n,)``, and their losses, float32 ``(n,)``; NaN for none."""
        with _readable(self.path):
            pieces = sorted(
                (
                    loss_values(level, block, offset, mean, highest, maximal=maximum)
                    for level, block, offset, mean, highest in self._query(
                        "SELECT level, block, offset, mean, maximum FROM losses"
                    )
                ),
                key=lambda piece: int(piece[0][0]),
            )
            if not pieces:
                return np.empty(0, np.int64), np.empty(0, np.float32)
            steps, values, weights = map(np.concatenate, zip(*pieces, strict=True))
            steps, values = binned(steps, values[:, None], weights, bins, maximum=maximum)
        return steps, values[:, 0]

    def rows(
        self, since: int = -1, bins: int | None = None, *, maximum: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of later steps than ``since``, with the columns of ``layout``.

        Rows of an older layout have their numbers where this one has them, and NaN elsewhere.

        Returns:
            Steps, int64 of shape ``(n,)``, and float32 of shape ``(n, layout.columns)``.
        """
        return self._series(columns_of(self.layout), bins, maximum, since)

    def step_measure(
        self, measure: str, *, bins: int | None = None, maximum: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``(n,)`` and a measure of the step as a whole, float32 ``(n,)``."""
        _known(measure, STEP_MEASURES)
        steps, values = self._series((("step", "", measure),), bins, maximum)
        return steps, values[:, 0]

    def site(
        self, measure: str, *, bins: int | None = None, maximum: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``(n,)`` and a measure of all sites of ``layout``, float32 ``(n, sites)``."""
        _known(measure, SITE_MEASURES)
        wanted = tuple(("site", site.name, measure) for site in self.layout.sites)
        return self._series(wanted, bins, maximum)

    def parameter(
        self, measure: str, *, bins: int | None = None, maximum: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``(n,)`` and a measure of all parameters, float32 ``(n, parameters)``."""
        _known(measure, PARAMETER_MEASURES)
        wanted = tuple(("parameter", one.name, measure) for one in self.layout.parameters)
        return self._series(wanted, bins, maximum)

    def to_pandas(self) -> Any:
        """All rows as a ``pandas.DataFrame``, named as in ``to_polars``; the index is the step.

        Raises:
            UsageError: if pandas is not installed.
        """
        return pandas_table(*self.rows(), columns_of(self.layout))

    def to_polars(self) -> Any:
        """All rows as a ``polars.DataFrame``: ``step``, ``loss``, ``site/NAME/forward_rms``...

        Raises:
            UsageError: if Polars is not installed.
        """
        return polars_table(*self.rows(), columns_of(self.layout))

    @property
    def _newest(self) -> Session:
        sessions = self.sessions
        if not sessions:
            raise StoreError(f"{self.path} holds no run yet.")
        return sessions[-1]

    def _newest_layout(self) -> StoredLayout:
        found = self._query("SELECT layout FROM rows ORDER BY last DESC LIMIT 1")
        return self._layout(found[0][0]) if found else _NO_LAYOUT

    def _layout(self, number: int) -> StoredLayout:
        if number not in self._layouts:
            with _readable(self.path):
                (content,) = self._query("SELECT content FROM layouts WHERE id = ?", (number,))[0]
                self._layouts[number] = layout_from(content)
        return self._layouts[number]

    def _series(
        self, wanted: Columns, bins: int | None, maximum: bool, since: int = -1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Some columns of all rows."""
        value = "coalesce(maximum, mean)" if maximum else "mean"
        source: dict[int, np.ndarray | None] = {}
        steps, samples, values = [], [], []
        with _readable(self.path):
            for last, count, layout, row in self._connection.execute(
                f"SELECT last, samples, layout, {value} FROM rows WHERE last > ? ORDER BY last",
                (since,),
            ):
                if layout not in source:
                    source[layout] = sources(self._layout(layout).columns, wanted)
                steps.append(last)
                samples.append(count)
                values.append(moved(np.frombuffer(row, np.float32)[None], source[layout]))
            if not steps:
                return np.empty(0, np.int64), np.empty((0, len(wanted)), np.float32)
            return binned(
                np.array(steps, np.int64),
                np.concatenate(values),
                np.array(samples),
                bins,
                maximum=maximum,
            )

    def _query(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with _readable(self.path):
            return self._connection.execute(query, values).fetchall()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What a damaged file makes of SQLite and of the records is an error of the file."""
    try:
        yield
    except _OF_THE_FILE as error:
        raise StoreError(f"The run store {path} cannot be read: {error}.") from error


def _connected(
    path: Path,
) -> tuple[sqlite3.Connection, tempfile.TemporaryDirectory[str] | None]:
    """A connection that cannot write, and the folder of the copy that it reads, if it does.

    SQLite needs a file beside the store to read one with a log. Where none can be made, what the
    log holds is read from a copy, and a store without a log as it lies there.
    """
    try:
        return _connection(path, "mode=ro"), None
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if not log.is_file() or not log.stat().st_size:
            return _connection(path, "immutable=1"), None
    folder = tempfile.TemporaryDirectory(prefix="gradscope-")
    try:
        copy = Path(folder.name) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(log, copy.with_name(log.name))
        return _connection(copy, "mode=ro"), folder
    except BaseException:
        folder.cleanup()
        raise


def _connection(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        uri=True,
        timeout=_BUSY,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _known(measure: str, measures: tuple[str, ...]) -> None:
    if measure not in measures:
        raise ValueError(f"There is no measure {measure!r}; there are {', '.join(measures)}.")
