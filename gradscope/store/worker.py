"""The thread that writes a run's store, and the queue before it.

The training thread does no more than put an item into a queue of limited length: no lock, no wait.
The worker empties the queue twice a second, and earlier when it is half full. It never raises:
what fails is told once, and what could not be stored is counted.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gradscope.store.recorder import Item, Recorder

__all__ = ["Worker"]

_PERIOD = 0.5
"""Seconds between commits; a killed run loses no more than that and the time of a commit."""

_SIGN_OF_LIFE = 5.0
"""Seconds after which the store is told that the run is alive though nothing has come."""

_PAUSE = 10.0
"""Seconds after a failure before the disk is tried again."""


class Worker(threading.Thread):
    """Writes items until it is told to finish.

    Attributes:
        refused: items that found the queue full.
        lost: items that could not be written.
        failure: what went wrong first; "" if nothing did.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(name="gradscope-store", daemon=True)
        self.limit = limit
        self.refused = 0
        self.lost = 0
        self.failure = ""
        self._process = os.getpid()
        self._queue: deque[Item | threading.Event] = deque()
        self._wake = threading.Event()
        self._ended: str | None = None
        self._recorder: Recorder | None = None
        self._close: Callable[[], None] = lambda: None
        self._try_again = 0.0
        self._written = time.monotonic()

    @property
    def dropped(self) -> int:
        return self.refused + self.lost

    @property
    def empty(self) -> bool:
        return not self._queue

    def begin(self, recorder: Recorder, close: Callable[[], None]) -> None:
        """Starts the thread; ``close`` is called when it ends."""
        self._recorder = recorder
        self._close = close
        self.start()

    def give_up(self, failure: str) -> None:
        """Takes nothing more, and counts what it has as lost; for a worker that was not begun."""
        self.failure = failure
        self._drop_rest()

    def put(self, item: Item, limit: int) -> None:
        """Queues an item, or counts it where so many wait already."""
        waiting = len(self._queue)
        if waiting >= limit or self._ended is not None:
            self.refused += 1
            return
        self._queue.append(item)
        if waiting > self.limit // 2 and not self._wake.is_set():
            self._wake.set()

    def flush(self, timeout: float) -> bool:
        """Waits until all that was queued is in the store; False if it is not."""
        if not self.is_alive():
            return False
        lost = self.lost
        done = threading.Event()
        self._queue.append(done)
        self._wake.set()
        return done.wait(timeout) and self.lost == lost

    def finish(self, ended: str, timeout: float) -> None:
        """Writes what is queued, and ends; waits no longer than ``timeout`` seconds."""
        if os.getpid() != self._process:
            return
        if self._ended is None:
            self._ended = ended
        self._wake.set()
        if self.is_alive():
            self.join(timeout)

    def run(self) -> None:
        try:
            while self._ended is None:
                self._wake.wait(_PERIOD)
                self._wake.clear()
                self._write()
            self._write()
            self._end()
        except Exception as error:
            self._failed(error)
        finally:
            with suppress(Exception):
                self._close()
            self._drop_rest()

    def _write(self) -> None:
        """Writes what is queued now."""
        items: list[Item] = []
        waiting: list[threading.Event] = []
        for _ in range(len(self._queue)):
            item = self._queue.popleft()
            if isinstance(item, threading.Event):
                waiting.append(item)
            else:
                items.append(item)
        now = time.monotonic()
        if items or now > self._written + _SIGN_OF_LIFE:
            if now < self._try_again:
                self.lost += len(items)
            else:
                self._written = now
                self._record(items)
        for event in waiting:
            event.set()

    def _record(self, items: list[Item]) -> None:
        assert self._recorder is not None
        try:
            self._recorder.write(items, self.dropped)
        except Exception as error:
            self.lost += len(items)
            self._failed(error)
            self._try_again = time.monotonic() + _PAUSE

    def _end(self) -> None:
        assert self._recorder is not None
        assert self._ended is not None
        self._recorder.end(self._ended, self.dropped)

    def _failed(self, error: Exception) -> None:
        self.failure = self.failure or (str(error) or type(error).__name__)

    def _drop_rest(self) -> None:
        """Counts what will not be written any more, and lets go who waits for it."""
        if self._ended is None:
            self._ended = "failed"
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, threading.Event):
                item.set()
            self.lost += 1
