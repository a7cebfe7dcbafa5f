"""Counts uses within one forward pass of the patched model, for sites such as ``act@1``."""

from __future__ import annotations

import threading

import torch

__all__ = ["Tally"]


_Key = tuple[int, bool]

_COMPILED: _Key = (0, False)


class Tally:
    """How often each module and call has been used in the forward passes that are running.

    A pass begins where a module that counts is called while none is running, and ends with it. So
    counts start at 0 in each pass of the model, as the names in a profile of one pass per step
    have them. Threads, and segments that activation checkpointing runs again, count for themselves.
    """

    def __init__(self) -> None:
        self._passes: dict[_Key, dict[str, int]] = {}

    def open(self) -> _Key | None:
        """Begins a pass, for ``close`` to end; None where one is running."""
        key = self._here()
        if key in self._passes:
            return None
        self._passes[key] = {}
        return key

    def close(self, key: _Key) -> None:
        """Ends the pass that ``open`` began."""
        self._passes.pop(key, None)

    def running(self) -> bool:
        return self._here() in self._passes

    def count(self, what: str) -> int:
        """Which use this is, from 0."""
        counts = self._passes[self._here()]
        use = counts.get(what, 0)
        counts[what] = use + 1
        return use

    def _here(self) -> _Key:
        # A graph is one pass, and knows no threads; what a broken graph leaves out is part of it.
        if torch.compiler.is_compiling() or _COMPILED in self._passes:
            return _COMPILED
        return threading.get_ident(), torch._C._current_graph_task_id() != -1

    def __deepcopy__(self, memo: dict[int, object]) -> Tally:
        """Passes that are running are the original's."""
        memo[id(self)] = fresh = Tally()
        return fresh

    def __reduce__(self) -> tuple[type[Tally], tuple[()]]:
        return Tally, ()
