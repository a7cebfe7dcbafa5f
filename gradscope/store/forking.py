"""Forked children: SQLite's connections do not survive a fork, and its locks may be held in one.

``inside`` is held wherever a writer's thread calls SQLite, and around every fork of the process:
else a child that uses SQLite itself, as a data set in a worker may, could wait forever for a lock
that a thread held which the child does not have. A connection of the parent is never closed in a
child: that could write to the parent's file.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Connection", "close", "close_in_children", "inside"]

_PATIENCE = 1.0
"""Seconds that a fork waits for a writer, as when its disk does not answer."""


class _Lock:
    """One for the process, as forks and SQLite's locks are; it holds nothing of any run."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held = False
        self.files: set[int] = set()

    def before(self) -> None:
        self.held = self.lock.acquire(timeout=_PATIENCE)

    def after_in_parent(self) -> None:
        if self.held:
            self.held = False
            self.lock.release()

    def after_in_child(self) -> None:
        self.lock = threading.Lock()
        self.held = False
        for file in self.files:
            with suppress(OSError):
                os.close(file)
        self.files.clear()


_LOCK = _Lock()

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_LOCK.before,
        after_in_parent=_LOCK.after_in_parent,
        after_in_child=_LOCK.after_in_child,
    )


@contextmanager
def inside() -> Iterator[None]:
    """No fork begins before the block is left."""
    lock = _LOCK.lock
    with lock:
        yield


def close_in_children(file: int) -> None:
    """A descriptor that forked children are not to hold, as they would hold its lock."""
    _LOCK.files.add(file)


def close(file: int) -> None:
    """Closes such a descriptor."""
    _LOCK.files.discard(file)
    os.close(file)


class Connection(sqlite3.Connection):
    """A connection that only the process that made it closes."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._process = os.getpid()
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def __del__(self) -> None:
        if os.getpid() != self._process:
            # One reference that is never given back: it outlives the interpreter, unclosed.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
