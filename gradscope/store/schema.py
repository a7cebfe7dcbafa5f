"""The tables of a run store, their version, and how to tell a store from other files.

``PRAGMA user_version`` counts the migrations that a file has had. A writer brings an older file up
to date; a reader reads every version up to its own and refuses newer ones.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "PAGE_SIZE",
    "is_run_store",
    "migrate",
    "refusal",
]

APPLICATION_ID = 0x47725363  # "GrSc"

PAGE_SIZE = 8192
"""Bytes. Rows are some kilobytes; with 4096 a quarter of the file was unused ends of pages."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY,
        first_step INTEGER NOT NULL,
        started REAL NOT NULL,
        updated REAL NOT NULL,
        ended TEXT,
        dropped INTEGER NOT NULL DEFAULT 0,
        info TEXT NOT NULL
    );
    CREATE TABLE layouts (id INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE);
    CREATE TABLE rows (
        last INTEGER PRIMARY KEY,
        first INTEGER NOT NULL,
        level INTEGER NOT NULL,
        samples INTEGER NOT NULL,
        layout INTEGER NOT NULL,
        mean BLOB NOT NULL,
        maximum BLOB
    );
    CREATE TABLE losses (
        level INTEGER NOT NULL,
        block INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        mean BLOB NOT NULL,
        maximum BLOB,
        UNIQUE (level, block)
    );
    CREATE TABLE alerts (
        code TEXT NOT NULL,
        step INTEGER NOT NULL,
        closed INTEGER,
        content TEXT NOT NULL,
        PRIMARY KEY (code, step)
    );
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        step INTEGER NOT NULL,
        time REAL NOT NULL,
        kind TEXT NOT NULL,
        data TEXT NOT NULL
    );
    """,
)
"""What makes version n of version n - 1, in order.

A row holds the samples from step ``first`` to step ``last``: one at level 0, about 2^level above.
``maximum`` is NULL where it is the mean. Value j of a block of losses is of the step
``block * 4096 + offset + j`` at level 0; above, of the 2^level steps from that times 2^level on.
"""

_MAGIC = b"SQLite format 3\x00"
_HEADER = 100
_APPLICATION_AT = 68


def is_run_store(path: str | Path) -> bool:
    """Whether a file is a run store, by its first bytes."""
    try:
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as file:
            header = file.read(_HEADER)
    except OSError:
        return False
    return (
        header.startswith(_MAGIC)
        and len(header) == _HEADER
        and int.from_bytes(header[_APPLICATION_AT : _APPLICATION_AT + 4], "big") == APPLICATION_ID
    )


def refusal(connection: sqlite3.Connection) -> str | None:
    """Why this version does not read a store, or None."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        return (
            f"was written by a newer gradscope (version {version} of the store; this one knows "
            f"{len(MIGRATIONS)})"
        )
    return None


def migrate(connection: sqlite3.Connection) -> None:
    """Brings a store up to this version, all or nothing; a new file gets all tables."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == len(MIGRATIONS):
        return
    steps = "".join(MIGRATIONS[version:])
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE; {steps}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {len(MIGRATIONS)}; COMMIT"
        )
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise
