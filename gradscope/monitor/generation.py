"""Which process this is, in a line of forks: asking the system takes longer than a step may."""

from __future__ import annotations

import os

__all__ = ["generation"]

_forks = 0


def generation() -> int:
    """How many forks lie between this process and the one that imported gradscope."""
    return _forks


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)
