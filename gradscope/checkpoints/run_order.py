"""Which checkpoint of a run comes before which, as their names tell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["name_order", "named_step"]

_STEP: Final = re.compile(r"(?:step|iter|iteration|update)s?[-_=]?(\d+)", re.IGNORECASE)
_EPOCH: Final = re.compile(r"(?:epoch|ep)[-_=]?(\d+)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"(?<![\d.])(\d+)(?!\.?\d)")
_DIGITS: Final = 18
_NO_TIME: Final = re.compile(r"(?<![a-z])(best|ema|swa|init|initial)(?![a-z])", re.IGNORECASE)
"""What names say of a checkpoint that is none of a certain time, or of the start."""
_AT_END: Final = re.compile(r"(?<![a-z])(last|latest|final)(?![a-z])", re.IGNORECASE)


def name_order(path: Path) -> tuple[int, int, str]:
    """What sorts the checkpoints of a run: 0 to 3, a number in the name, the name.

    First come those without a number whose names say that they are of no certain time, such as
    ``best``; then numbered ones, by the step, else the epoch, else the last number in their names;
    then others; and in the end those that are called ``last``, ``latest`` or ``final``.
    """
    name = path.name if path.is_dir() else path.stem
    for pattern in (_STEP, _EPOCH, _NUMBER):
        if numbers := pattern.findall(name):
            return 1, int(numbers[-1][:_DIGITS]), path.name
    if _NO_TIME.search(name):
        return 0, 0, path.name
    return 3 if _AT_END.search(name) else 2, 0, path.name


def named_step(path: Path) -> int | None:
    """The step that a name tells, as ``epoch=3-step=90.ckpt`` does."""
    numbers = _STEP.findall(path.name)
    return int(numbers[-1][:_DIGITS]) if numbers else None
