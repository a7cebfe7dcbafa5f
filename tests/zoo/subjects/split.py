"""Which architectures limits may be set by; the others only ever give the score."""

from __future__ import annotations

__all__ = ["CALIBRATION", "SCORE"]

CALIBRATION: frozenset[str] = frozenset()

SCORE: frozenset[str] = frozenset()
