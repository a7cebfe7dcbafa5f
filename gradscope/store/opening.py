"""Opens the file that a run is written to: a new one, or a store that the run continues.

What is at the path already is never overwritten. Another application's file, a folder, the store
of a run that still writes: the run then goes to the next free name, ``run-2.gradscope``.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from gradscope.store import forking, schema
from gradscope.store.contents import layout_from
from gradscope.store.forking import Connection, inside
from gradscope.store.losses import last_loss

try:
    import fcntl
except ImportError:  # Windows: two runs on one path are not told apart there
    fcntl = None  # type: ignore[assignment]

__all__ = ["Opened", "numbered", "open_store", "set_up", "unlock"]

_BUSY = 2.0
"""Seconds that SQLite waits for another process's lock."""

_LOG_LIMIT = 32 * 2**20
"""Bytes that the write-ahead log is cut to once it has been longer."""


class _NotHere(Exception):
    """The path is taken by something that is left alone."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A store that is open for writing.

    Attributes:
        models: names of the parameters, of its first layout and of its newest, which differ where
            a run has added some; none while it has no layout.
        next_step: after the last step that is stored; 0 of a new store.
        new: whether it holds no session.
        instead: why it is not where it was asked for; "" if it is.
        lock: descriptor of the file that says that it is in use; None where locks do not work.
    """

    path: Path
    connection: Connection
    models: tuple[frozenset[str], ...]
    next_step: int
    new: bool
    instead: str
    lock: int | None


def open_store(path: Path, *, beside: str = "") -> Opened:
    """Opens a store, or the next free name.

    Args:
        path: where it is wanted; its folder is made.
        beside: why what is at the path cannot be used; then only a free name will do.

    Raises:
        OSError: if the folder cannot be written.
        sqlite3.Error: if SQLite cannot write there.
    """
    if not path.name:
        # The working directory itself.
        path /= "run.gradscope"
    path.parent.mkdir(parents=True, exist_ok=True)
    reason = beside
    for candidate in numbered(path):
        if reason and (candidate == path or os.path.lexists(candidate)):
            continue
        try:
            return _open(candidate, reason)
        except _NotHere as taken:
            reason = reason or str(taken)
    raise AssertionError  # the names do not end


def unlock(path: Path, lock: int | None) -> None:
    """Lets others write to a store."""
    if lock is None:
        return
    with suppress(OSError):
        _lock_file(path).unlink()
    forking.close(lock)


def numbered(path: Path) -> Iterator[Path]:
    """The names that runs beside each other take: ``run``, ``run-2``, ``run-3`` and so on."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _open(path: Path, instead: str) -> Opened:
    if os.path.lexists(path) and not path.is_file():
        if not path.is_dir() and path.exists():
            raise OSError(f"{path} is not a regular file")
        raise _NotHere("is a folder" if path.is_dir() else "is a link that leads nowhere")
    if path.is_file() and path.stat().st_size and not schema.is_run_store(path):
        raise _NotHere("is not a run store and is left as it is")
    lock = _lock(path)
    try:
        return _connected(path, instead, lock)
    except BaseException:
        unlock(path, lock)
        raise


def _connected(path: Path, instead: str, lock: int | None) -> Opened:
    with inside():
        connection = sqlite3.connect(
            path,
            timeout=_BUSY,
            isolation_level=None,
            check_same_thread=False,
            factory=Connection,
        )
        try:
            if reason := schema.refusal(connection):
                raise _NotHere(reason)
            connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
            # Before there is a log: what is in a log alone tells nobody that this is a store.
            schema.migrate(connection)
            models, next_step = _models(connection), _next_step(connection)
            new = not connection.execute("SELECT count(*) FROM sessions").fetchone()[0]
        except BaseException as error:
            connection.close()
            # OperationalError is the disk's or a lock's; these are the file's.
            if type(error) in (sqlite3.DatabaseError, ValueError, KeyError, TypeError):
                raise _NotHere(f"is damaged ({error})") from error
            raise
    return Opened(path, connection, models, next_step, new, instead, lock)


def set_up(connection: sqlite3.Connection) -> None:
    """Turns the write-ahead log on; the first thing that is done to a store once it is ours."""
    # Where it is not to be had, as on some network file systems, SQLite keeps to its old journal.
    connection.execute("PRAGMA journal_mode = WAL")
    # A killed process loses nothing that was committed; a computer that fails may lose the newest.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")


def _models(connection: sqlite3.Connection) -> tuple[frozenset[str], ...]:
    return tuple(
        frozenset(parameter.name for parameter in layout_from(content).layout.parameters)
        for (content,) in connection.execute(
            "SELECT content FROM layouts WHERE id IN"
            " (SELECT min(id) FROM layouts UNION SELECT max(id) FROM layouts)"
        )
    )


def _next_step(connection: sqlite3.Connection) -> int:
    last = connection.execute("SELECT coalesce(max(last), -1) FROM rows").fetchone()[0]
    return max(int(last), last_loss(connection)) + 1


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}-lock")


def _lock(path: Path) -> int | None:
    """Says that the store is in use, until this process ends or unlocks it."""
    if fcntl is None:
        return None
    name = _lock_file(path)
    while True:
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise _NotHere("is being written by another run") from None
        except OSError:  # a file system without locks
            os.close(file)
            name.unlink()
            return None
        with suppress(OSError):
            if os.path.samestat(os.fstat(file), name.stat()):
                forking.close_in_children(file)
                return file
        os.close(file)  # the one who held it has removed it meanwhile
