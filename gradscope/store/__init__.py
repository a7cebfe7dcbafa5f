"""Keeps what a monitor saw of a training run, in one SQLite file, and reads it while it is written.

``RunWriter`` takes rows, losses, alerts and events off the training's hands: a thread of its own
writes them. ``open_run`` reads them, from another process too, also after the run was killed.
Nothing here needs torch.
"""

from __future__ import annotations

from gradscope.store.contents import Event, Session
from gradscope.store.reader import Run, open_run
from gradscope.store.retention import Keep
from gradscope.store.schema import is_run_store
from gradscope.store.writer import RunWriter

__all__ = [
    "Event",
    "Keep",
    "Run",
    "RunWriter",
    "Session",
    "is_run_store",
    "open_run",
]
