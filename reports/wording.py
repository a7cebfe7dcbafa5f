"""How numbers, names and states are said: one wording for every renderer."""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from gradscope.records import Severity, Status
from gradscope.reports.nodes import Mark, Tone

__all__ = [
    "FAILED",
    "FOUND",
    "HELD",
    "LISTED",
    "MARKS_OVER_TIME",
    "NOT_FOUND",
    "SEVERITY",
    "STATUS",
    "UNTOLD",
    "among",
    "count",
    "distinct",
    "each_string",
    "listed",
    "middle",
    "number",
    "over_time",
    "percent",
    "positions_shown",
    "probability",
    "rounded",
    "sentence",
    "shortened",
    "spoken",
    "visible",
]

SEVERITY = {
    Severity.ERROR: Mark("✗", "error", Tone.BAD),
    Severity.WARNING: Mark("▲", "warning", Tone.WARN),
    Severity.INFO: Mark("●", "info", Tone.MUTED),
}
STATUS = {
    Status.FIXED: Mark("✓", "fixed", Tone.GOOD),
    Status.IMPROVED: Mark("✓", "improved", Tone.GOOD),
    Status.NO_EFFECT: Mark("✗", "no effect", Tone.WARN),
    Status.WORSE_UNDONE: Mark("✗", "worse, undone", Tone.BAD),
    Status.UNVERIFIED: Mark("?", "unverified", Tone.WARN),
    Status.NOTHING_TO_FIX: Mark("✓", "nothing to fix", Tone.GOOD),
}
HELD = Mark("✓", "held", Tone.GOOD)
FAILED = Mark("✗", "broken", Tone.BAD)
FOUND, NOT_FOUND, UNTOLD = "━", "·", "?"
MARKS_OVER_TIME = 18
"""Marks of a finding's line over time, at most: what fits 80 columns."""

LISTED = 24
"""Rows of a table of layers; more are thinned evenly, and all are in the JSON report."""

_SCIENTIFIC_BELOW = 1e-3
_SCIENTIFIC_FROM = 1e5
_SMALLEST_P = 1e-6
"""A t-test's p-value on a handful of seeds means nothing finer than this."""


def number(value: float | None) -> str:
    """Three significant digits; scientific below 0.001 and from 100,000; integers in full."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if value and (size < _SCIENTIFIC_BELOW or float(f"{size:.3g}") >= _SCIENTIFIC_FROM):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"


def rounded(value: float) -> float:
    """Four significant digits, which no picture shows more of and a file need not hold."""
    return float(f"{value:.4g}")


def distinct(one: float | None, other: float | None) -> tuple[str, str]:
    """Both numbers, with more digits where three would make two different ones look the same."""
    said = number(one), number(other)
    if one is None or other is None or said[0] != said[1]:
        return said
    if one == other or not (math.isfinite(one) and math.isfinite(other)):
        return said
    digits = next(digits for digits in range(4, 18) if f"{one:.{digits}g}" != f"{other:.{digits}g}")
    return f"{one:.{digits}g}", f"{other:.{digits}g}"


def percent(share: float | None) -> str:
    """A share from 0 to 1 in per cent."""
    return "–" if share is None else f"{number(share * 100.0)} %"


def probability(value: float) -> str:
    """A p-value, without more digits than it deserves."""
    return f"< {number(_SMALLEST_P)}" if value < _SMALLEST_P else number(value)


def count(amount: int, noun: str) -> str:
    """``1 site``, ``2,000 sites``."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


_SPELLINGS = {"relu": "ReLU", "nan": "NaN"}


def spoken(name: str) -> str:
    """A rule's name as words: ``vanishing-gradient`` is a vanishing gradient."""
    words = name.replace("-", " ").replace("_", " ").split(" ")
    return " ".join(_SPELLINGS.get(word, word) for word in words)


def over_time(parts: Iterable[Sequence[bool | None]]) -> str:
    """One mark for each part of a run: whether something was found in it; None does not tell."""
    return "".join(
        FOUND if any(part) else UNTOLD if all(one is None for one in part) else NOT_FOUND
        for part in parts
    )


def sentence(text: str) -> str:
    """The text with a full stop, and a capital unless it begins with a name like ``0.relu``."""
    text = text.strip()
    if text.partition(" ")[0].isalpha():
        text = text[0].upper() + text[1:]
    return text if not text or text[-1] in ".!?:" else f"{text}."


def visible(text: str) -> str:
    """The text with every character that could steer a terminal or a reader's eye spelled out.

    Control and format characters (escape sequences, bidirectional overrides, zero-width marks)
    and lone surrogates become ``\\x1b``, ``\\u202e``; line breaks and tabs become one space.
    """
    if text.isascii() and text.isprintable():
        return text
    text = re.sub(r"[ \t]*[\t\r\n]\s*", " ", text)
    return "".join(
        character if unicodedata.category(character) not in _INVISIBLE else _spelled(character)
        for character in text
    )


_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def _spelled(character: str) -> str:
    if ord(character) < 128:
        return f"\\x{ord(character):02x}"
    return character.encode("ascii", "backslashreplace").decode()


def each_string(node: Any, change: Callable[[str], str]) -> Any:
    """A copy of nested frozen dataclasses, tuples and dicts with every string changed."""
    if type(node) is str:  # members of a StrEnum stay what they are
        return change(node)
    if isinstance(node, tuple):
        return tuple(each_string(each, change) for each in node)
    if isinstance(node, dict):
        return {change(key): each_string(value, change) for key, value in node.items()}
    if is_dataclass(node) and not isinstance(node, type):
        changed = {one.name: each_string(getattr(node, one.name), change) for one in fields(node)}
        return replace(node, **changed)
    return node


def shortened(name: str, width: int) -> str:
    """The name in at most ``width`` characters: its middle goes, its ends tell it from others."""
    if len(name) <= width:
        return name
    head = max(1, (width - 1) // 2)
    tail = max(0, width - 1 - head)
    return f"{name[:head]}…{name[len(name) - tail :]}"


def middle(values: Iterable[float]) -> float:
    """The median of the finite values; of none, infinity if one was infinite, else NaN."""
    seen = tuple(values)
    finite = [value for value in seen if math.isfinite(value)]
    if finite:
        return statistics.median(finite)
    return math.inf if any(math.isinf(value) for value in seen) else math.nan


def among(value: float, low: float, high: float) -> float:
    """Where ``value`` stands between ``low`` and ``high``, from 0 to 1."""
    return 0.0 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))


def positions_shown(rows: int, most: int = LISTED) -> list[int]:
    """Of so many rows at most ``most``, evenly spaced, the first and the last among them."""
    if rows <= most:
        return list(range(rows))
    return [round(row * (rows - 1) / (most - 1)) for row in range(most)]
