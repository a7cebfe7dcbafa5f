"""Follows a run store that another process writes: reads what is new, and keeps few points.

The whole is read once. After that a look costs the new samples alone, however long the run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.errors import GradscopeError

if TYPE_CHECKING:
    from gradscope.history import TrainingHistory
    from gradscope.store import Run

__all__ = ["Following"]

_POINTS = 120
"""Of each series, at most twice as many: more than a line of a terminal shows."""
_SHARE = 0.05
"""Of the time between looks that reading the losses may take; of a long run they are many."""


class Following:
    """The newest state of a run store, which may be replaced or removed meanwhile.

    Attributes:
        history: as of the last look.
        parameters: how many elements the model has.
        updated: Unix time of the run's last sign of life.
        gone: whether the file was not there at the last look.
    """

    def __init__(self, path: Path) -> None:
        """Opens and reads the store.

        Raises:
            StoreError: there is no run store, or it cannot be read.
        """
        self.path = path
        self._open()
        self.gone = False

    def close(self) -> None:
        self._run.close()

    def look(self) -> None:
        """Reads what is new; a file that is not there leaves all as it was."""
        if (file := self._identity()) is None:
            self.gone = True
            return
        try:
            if self.gone or file != self._file or self._rewound():
                self._run.close()
                self._open()
            else:
                self._read_on()
            self.gone = False
        except GradscopeError:
            # Just being replaced: the next look finds it whole.
            self.gone = True

    def _open(self) -> None:
        from gradscope.store import open_run

        self._file = self._identity()
        self._run: Run = open_run(self.path)
        try:
            self._read()
        except GradscopeError:
            self._run.close()
            raise

    def _read(self) -> None:
        """Reads the whole."""
        self._sessions = len(self._run.sessions)
        self._losses_next = 0.0
        self._layout = self._run.layout
        self._steps, self._rows = self._run.rows(bins=_POINTS)
        self._make()

    def _identity(self) -> tuple[int, int] | None:
        """Which file it is; None where there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _rewound(self) -> bool:
        """Whether rows that were read may have been replaced, or have another layout now."""
        return len(self._run.sessions) != self._sessions or self._run.layout != self._layout

    def _read_on(self) -> None:
        import numpy as np

        last = int(self._steps[-1]) if len(self._steps) else -1
        steps, rows = self._run.rows(since=last)
        if rows.shape[1] != self._rows.shape[1]:
            self._read()
            return
        if not len(steps) and self._run.updated == self.updated == self._losses_of:
            return
        self._steps = np.concatenate((self._steps, steps))
        self._rows = np.concatenate((self._rows, rows))
        self._make()

    def _make(self) -> None:
        import numpy as np

        from gradscope.store.binning import binned
        from gradscope.store.report import history_of_rows

        if self._rows.shape[1] != self._layout.columns:
            # The layout has changed while it was read.
            self._read()
            return
        if len(self._steps) > 2 * _POINTS:
            alike = np.ones(len(self._steps))
            self._steps, self._rows = binned(self._steps, self._rows, alike, _POINTS, maximum=False)
        self._read_losses()
        self.updated = self._run.updated
        self.history: TrainingHistory = history_of_rows(
            self._run, self._layout, self._steps, self._rows, self._losses
        )
        self.parameters = self._run.info.parameters

    def _read_losses(self) -> None:
        begun = time.monotonic()
        if begun >= self._losses_next:
            self._losses_of = self._run.updated
            self._losses = self._run.losses(bins=2 * _POINTS)
            ended = time.monotonic()
            self._losses_next = ended + (ended - begun) / _SHARE
