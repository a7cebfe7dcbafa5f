"""Names in the room that a terminal has for them.

Room is counted in cells, not in characters: a Chinese character takes two, an accent set over
another character none. What does not fit loses its middle. The names of siblings in a deep model
have both their ends in common, so names that stand together are cut where they are alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["fitted", "told_apart", "width_of"]

_GAP = "…"
_LEAST_ENDS = 4
"""Cells of the common ends, below which names are told apart by their differences alone."""
_NARROW = 2


def width_of(text: str) -> int:
    """How many cells of a terminal it takes."""
    from rich.cells import cell_len

    return len(text) if text.isascii() else cell_len(text)


def fitted(name: str, width: int) -> str:
    """The name in at most ``width`` cells: its middle goes, its ends tell it from others."""
    if width_of(name) <= width:
        return name
    if width < 1:
        return ""
    head = max(1, (width - 1) // 2) if width > 1 else 0
    return f"{_start(name, head)}{_GAP}{_end(name, width - 1 - head)}"


def told_apart(names: Sequence[str], width: int) -> list[str]:
    """Each name in at most ``width`` cells, such that different names do not look the same.

    Where cutting the middle makes several the same, what these have in common is cut instead:
    ``encoder.layers.17.feed_forward.activation`` becomes ``encoder.la…17…activation``. What is
    still the same then is numbered.
    """
    different = list(dict.fromkeys(names))
    short = dict(zip(different, _apart(different, width), strict=True))
    taken: set[str] = set()
    for name, shown in short.items():
        number = 1
        while short[name] in taken:
            number += 1
            mark = f"{_GAP}{number}"
            short[name] = (_start(shown, max(0, width - width_of(mark))) + mark)[: max(1, width)]
            if number > len(different):
                break
        taken.add(short[name])
    return [short[name] for name in names]


def _apart(names: Sequence[str], width: int) -> list[str]:
    shown = [fitted(name, width) for name in names]
    long = [index for index, name in enumerate(names) if shown[index] != name]
    if width <= _NARROW or len({shown[index] for index in long}) == len(long):
        return shown
    # All in one way if possible, so that a column looks alike.
    groups: dict[str, list[int]] = {}
    whole = _differences([names[index] for index in long], width)
    if whole is not None:
        groups[""] = long
    else:
        for index in long:
            groups.setdefault(shown[index], []).append(index)
    for group in groups.values():
        if len(group) > 1:
            alike = [names[index] for index in group]
            cut = whole or _differences(alike, width) or _cores_apart(alike, width)
            for index, each in zip(group, cut, strict=True):
                shown[index] = each
    return shown


def _differences(names: Sequence[str], width: int) -> list[str] | None:
    """Names that are alike at their ends, with what differs whole; None where that does not fit."""
    for split in (_by_part, _by_character):
        head, tail = split(names)
        cores = [name[len(head) : len(name) - len(tail)] for name in names]
        gaps = bool(head) + bool(tail)
        room = width - gaps - max(map(width_of, cores))
        if room < _LEAST_ENDS or not gaps:
            continue
        before, after = _shares(width_of(head), width_of(tail), room)
        left = head if before >= width_of(head) else _start(head, before) + _GAP
        right = tail if after >= width_of(tail) else _GAP + _end(tail, after)
        return [f"{left}{core}{right}" for core in cores]
    return None


def _cores_apart(names: Sequence[str], width: int) -> list[str]:
    """Names whose differences are themselves too long."""
    head, tail = _by_character(names)
    gaps = bool(head) + bool(tail)
    cores = [name[len(head) : len(name) - len(tail)] for name in names]
    if not gaps:
        return [fitted(name, width) for name in names]
    return [
        f"{_GAP if head else ''}{core}{_GAP if tail else ''}"
        for core in _apart(cores, width - gaps)
    ]


def _shares(head: int, tail: int, room: int) -> tuple[int, int]:
    """How much of the room each of the two ends gets; what one does not need the other has."""
    half = room // 2
    before = min(head, max(half, room - tail))
    return before, min(tail, room - before)


def _by_character(names: Sequence[str]) -> tuple[str, str]:
    """What all have in common at the start and, beside that, at the end."""
    head = _common(names)
    return head, _common([name[len(head) :][::-1] for name in names])[::-1]


def _common(texts: Sequence[str]) -> str:
    """What all begin with: what the first and the last in order do."""
    first, last = min(texts), max(texts)
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return first[:same]


def _by_part(names: Sequence[str]) -> tuple[str, str]:
    """As :func:`_by_character`, up to a dot: of layers 17 and 18 the whole number differs."""
    head, tail = _by_character(names)
    return head[: head.rfind(".") + 1], tail[tail.find(".") :] if "." in tail else ""


def _start(text: str, width: int) -> str:
    kept, room = "", width
    for cluster in _clusters(text):
        room -= width_of(cluster)
        if room < 0:
            break
        kept += cluster
    return kept


def _end(text: str, width: int) -> str:
    kept, room = "", width
    for cluster in reversed(_clusters(text)):
        room -= width_of(cluster)
        if room < 0:
            break
        kept = cluster + kept
    return kept


def _clusters(text: str) -> list[str]:
    """Its characters, each with the marks that are set over it."""
    clusters: list[str] = []
    for character in text:
        if clusters and unicodedata.category(character) in ("Mn", "Me"):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters
