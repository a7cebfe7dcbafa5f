"""The side of a run store that a training run sees: it takes what it is given, and never fails."""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gradscope.store.contents import written
from gradscope.store.forking import inside
from gradscope.store.opening import Opened, open_store, set_up, unlock
from gradscope.store.recorder import Recorder
from gradscope.store.retention import Keep
from gradscope.store.worker import Worker
from gradscope.training import Alert, Layout, RunInfo

__all__ = ["RunWriter"]

_QUEUED_BYTES = 64 * 2**20
"""Of rows that wait to be written; wide rows wait in smaller numbers."""

_FEWEST_QUEUED = 16

_UNKNOWN = 1.0
"""Seconds for which a continued store waits for a layout before it takes the run for the same."""


class RunWriter:
    """Writes a run into a store, on a thread of its own.

    Whatever the disk does, no method raises or waits: one call of ``warn``, on the thread that
    called the method, says what went wrong, and what cannot be stored is dropped and counted. The
    disk is tried again later. In a forked child every method does nothing.

    A store that is there already is continued, unless it is of a model whose parameters have other
    names. Then, and where the path is taken by something else or by a run that is still being
    written, this run goes to the next free name (``run-2.gradscope``), with a warning.

    Attributes:
        path: the file that is really written.
        first_step: where this session's steps begin: as given, else after the last stored step.
            What the store holds of it and of later steps is replaced.
    """

    def __init__(
        self,
        path: str | Path,
        info: RunInfo,
        *,
        queue: int = 1024,
        keep: Keep | None = None,
        warn: Callable[[str], None],
        first_step: int | None = None,
    ) -> None:
        """Opens or makes the store.

        Args:
            path: of the store; its folder is made.
            info: what the run is.
            queue: samples that may wait to be written.
            keep: how much is kept; see ``Keep``.
            warn: told once if something goes wrong.
            first_step: see above.
        """
        self.path = Path(path).absolute()
        self.first_step = first_step or 0
        self._info = info
        self._keep = keep or Keep()
        self._warn = warn
        self._told = False
        self._process = os.getpid()
        self._queue = queue
        self._layout: Layout | None = None
        self._size = 0
        self._begun = False
        self._since = time.monotonic()
        self._opened: Opened | None = None
        self._worker = worker = Worker(queue)
        self._open("")
        if self._opened is not None:
            if first_step is None:
                self.first_step = self._opened.next_step
            if self._opened.new:
                self._begin(None)
        self._tell()
        # A run that is never closed ends with its process, or with the last reference to it.
        self._finalizer = weakref.finalize(self, worker.finish, "exit", 5.0)

    @property
    def dropped(self) -> int:
        """How many samples, pieces of losses, alerts and events could not be stored."""
        return self._worker.dropped

    def layout(self, layout: Layout) -> None:
        """Rows from now on have this layout."""
        if layout is self._layout or os.getpid() != self._process:
            return
        self._layout = layout
        self._size = layout.columns * 4
        fitting = _QUEUED_BYTES // max(1, self._size)
        self._worker.limit = min(self._queue, max(_FEWEST_QUEUED, fitting))
        if not self._begun:
            self._begin(layout)
        self._tell()

    def sample(self, step: int, row: np.ndarray) -> None:
        """Stores the numbers of a sampled step, float32 of shape ``(layout.columns,)``.

        The array may be reused at once. A row of another length, or before any layout, is dropped.
        """
        if os.getpid() != self._process:
            return
        content = np.asarray(row, np.float32).tobytes()
        if self._layout is None or len(content) != self._size:
            self._worker.refused += 1
            return
        self._put(("row", self._layout, int(step), content), 1)

    def losses(self, first_step: int, losses: np.ndarray) -> None:
        """Stores the losses of consecutive steps, float32 of shape ``(steps,)``; NaN for none."""
        if os.getpid() != self._process or not len(losses):
            return
        self._put(("losses", int(first_step), np.asarray(losses, np.float32).tobytes()), 2)

    def alert(self, alert: Alert) -> None:
        """Stores an alert, or what has become of the one of the same code and step."""
        if os.getpid() == self._process:
            self._put(("alert", alert), 2)

    def event(self, step: int, kind: str, data: dict[str, Any]) -> None:
        """Stores what happened at a step; ``data`` has to be what JSON can say."""
        if os.getpid() != self._process:
            return
        try:
            content = written(data)
        except (TypeError, ValueError, RecursionError):
            self._worker.refused += 1
            return
        self._put(("event", int(step), time.time(), kind, content), 2)

    def flush(self, timeout: float) -> bool:
        """Waits until all is in the store, at most ``timeout`` seconds; False if it is not."""
        if os.getpid() != self._process:
            return False
        self._begin(None)
        flushed = self._worker.flush(timeout)
        self._tell()
        return flushed

    def close(self, timeout: float = 5.0, ended: str = "") -> None:
        """Stores what is queued and ends the session; waits at most ``timeout`` seconds.

        Args:
            timeout: in seconds.
            ended: "" if the run finished, else why it did not, as "KeyboardInterrupt".
        """
        if os.getpid() != self._process or not self._finalizer.detach():
            return
        if not self._worker.empty:
            self._begin(None)
        self._worker.finish(ended, timeout)
        if not self._begun:
            self._let_go()
        self._tell()

    def _put(self, item: tuple[Any, ...], share: int) -> None:
        # Losses and notes are small, and need not be lost with the samples.
        self._worker.put(item, self._worker.limit * share)
        if not self._begun and time.monotonic() > self._since + _UNKNOWN:
            self._begin(None)
        if self._worker.failure:
            self._tell()

    def _open(self, beside: str) -> None:
        """Opens the store; ``beside`` says why it cannot be the file that is at the path."""
        asked = self.path
        try:
            self._opened = opened = open_store(asked, beside=beside)
        except Exception as error:
            self._fail(error)
            return
        self.path = opened.path
        if opened.instead:
            self._say(f"{asked} {opened.instead}: this run is written to {opened.path}.")

    def _begin(self, layout: Layout | None) -> None:
        """Begins to write, once it is known whether the store is of this model."""
        if self._begun or self._opened is None:
            return
        models = self._opened.models
        if layout is not None and models and _names(layout) not in models:
            self._let_go()
            self._open("holds a run of another model")
            if self._opened is None:
                return
        opened = self._opened
        self._begun = True

        def close() -> None:
            with inside():
                opened.connection.close()
            unlock(opened.path, opened.lock)

        try:
            with inside():
                set_up(opened.connection)
            recorder = Recorder(
                opened.path,
                opened.connection,
                self._info,
                self._keep,
                self.first_step,
                continued=not opened.new,
            )
            self._worker.begin(recorder, close)
        except Exception as error:
            self._let_go()
            self._fail(error)

    def _let_go(self) -> None:
        """Closes a store to which nothing was written."""
        if self._opened is not None:
            with suppress(sqlite3.Error), inside():
                self._opened.connection.close()
            unlock(self._opened.path, self._opened.lock)
            self._opened = None

    def _fail(self, error: Exception) -> None:
        self._worker.give_up(str(error) or type(error).__name__)

    def _tell(self) -> None:
        """Warns of what went wrong, the first time."""
        if self._worker.failure and not self._told:
            self._told = True
            self._say(
                f"The run store {self.path} cannot be written: {self._worker.failure}. "
                "Training goes on; what cannot be stored is dropped and counted."
            )

    def _say(self, message: str) -> None:
        with suppress(Exception):
            self._warn(message)


def _names(layout: Layout) -> frozenset[str]:
    return frozenset(parameter.name for parameter in layout.parameters)
