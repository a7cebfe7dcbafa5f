"""How many CPU threads torch should use for a piece of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["fastest_threads"]

# All threads are used where they make a step faster by this factor.
_WORTH_THREADS = 1.25


@contextmanager
def fastest_threads(seconds_per_step: Callable[[], float]) -> Iterator[float]:
    """Sets how many threads torch uses on the CPU by trying; yields the seconds of a step.

    Small models run as fast on one thread, and much faster where other processes want the cores
    too: threads that wait for each other then wait for the scheduler.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = seconds_per_step()
        torch.set_num_threads(threads)
        many = seconds_per_step() if threads > 1 else one
        if many * _WORTH_THREADS > one:
            torch.set_num_threads(1)
        yield min(one, many)
    finally:
        torch.set_num_threads(threads)
