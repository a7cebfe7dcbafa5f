"""Adds up the time that a monitor takes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Clock"]


@dataclass
class Clock:
    """Seconds spent so far; hooks and steps add theirs."""

    seconds: float = 0.0
