"""Work for several processes of this machine, of which each does one item at a time.

``concurrent.futures`` does not tell which item a process died of, and cannot be stopped in the
middle of one before Python 3.14; both happen here. Processes are spawned: torch does not survive a
fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

__all__ = ["Died", "processors", "spread"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_STDOUT, _STDERR = 1, 2
_PATIENCE = 5.0
"""Seconds that a process is given to end before it is killed."""


@dataclass(frozen=True)
class Died:
    """A process ended in the middle of an item; ``status`` is minus the signal that ended it."""

    status: int


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[tuple[int, Result | Died]]:
    """Does the work in processes of their own; yields the index of each item with its result.

    They are ended when the iterator is closed, or an exception such as KeyboardInterrupt leaves
    it. Items of processes that cannot even start are left out: they are the caller's to do.

    Args:
        work: a function of a module; what it raises ends its process.
        items: what it is called with; they are pickled, as are the results.
        processes: how many at a time.
    """
    waiting = deque(range(len(items)))
    crew: dict[object, _Worker[Item]] = {}
    try:
        for _ in range(min(processes, len(items))):
            _hire(crew, work)
        while crew:
            for ready in wait([worker.connection for worker in crew.values()]):
                worker = crew[ready]
                done = worker.index
                result: Result | Died
                try:
                    result = worker.connection.recv()
                except (EOFError, OSError):
                    del crew[ready]
                    result = Died(worker.status())
                    if done is not None and waiting:
                        _hire(crew, work)
                else:
                    if waiting:
                        worker.give(at := waiting.popleft(), items[at])
                    else:
                        del crew[ready]
                        worker.end()
                # Of what a process says first, that it has started, nobody is told.
                if done is not None:
                    yield done, result
    finally:
        for worker in crew.values():
            worker.end()


def _hire(crew: dict[object, _Worker[Item]], work: Callable[[Item], object]) -> None:
    # Where the system grants no more processes, those there are do all.
    with suppress(OSError):
        worker = _Worker(work)
        crew[worker.connection] = worker


class _Worker(Generic[Item]):
    """One process; ``index`` is that of the item that it is at."""

    def __init__(self, work: Callable[[Item], object]) -> None:
        context = multiprocessing.get_context("spawn")
        self.index: int | None = None
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, work), daemon=True
        )
        with _interrupts_held():
            self.process.start()
        theirs.close()

    def give(self, index: int, item: Item) -> None:
        self.index = index
        # Where it has died meanwhile, that is noticed when it is listened to.
        with suppress(OSError):
            self.connection.send(item)

    def status(self) -> int:
        """The exit status of one that ends by itself."""
        self.process.join(_PATIENCE)
        self.end()
        return self.process.exitcode or 0

    def end(self) -> None:
        """Ends it, whatever it is at."""
        self.connection.close()
        self.process.terminate()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that starts in here never hears of Ctrl-C, which all of a terminal's are sent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It is started with the first process, and lets interrupts through when it is.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, work: Callable[[Item], object]) -> None:
    # What code of the user's prints must not get into a report on stdout.
    os.dup2(_STDERR, _STDOUT)
    try:
        import torch

        torch.set_num_threads(1)
        connection.send(None)
        while True:
            connection.send(work(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
