"""What was not done, and why: skips and refusals.

Rules that were skipped for one reason share a line. A short scan skips every rule over time, and
a line for each would bury what is said of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from gradscope.records import Refusal, Report, Skipped
from gradscope.reports.left_out import skips_and_refusals
from gradscope.reports.nodes import Block, Entry, Items, Mark, Paragraph, Tone
from gradscope.reports.wording import count, listed, sentence, shortened

__all__ = ["undone"]

_NAMES_SHOWN = 6
_CODES_NAMED = 2
"""Rules that stand by name in the first column, at most."""
_SKIPPED = Mark("–", "skipped", Tone.MUTED)
_REFUSED = Mark("✗", "refused", Tone.WARN)
_RULE = re.compile(r"[A-Z]+\d+\b")
_NUMBER = re.compile(r"(?<!\S)(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=[,;]?(?:\s|$))")


def undone(report: Report) -> tuple[Block, ...]:
    """All skips and refusals of a report, or that there are none."""
    skipped, refused = skips_and_refusals(report)
    if not skipped and not refused:
        return (Paragraph("Nothing was skipped, and no remedy was refused.", Tone.MUTED),)
    return (Items((*_skips(skipped), *map(_refusal, refused))),)


def _skips(skipped: Iterable[Skipped]) -> Iterator[Entry]:
    groups: dict[object, list[Skipped]] = {}
    for one in skipped:
        # Of one kind are rules whose reasons differ in nothing but numbers.
        kind = tuple(_NUMBER.split(one.reason)[::2]) if _RULE.match(one.what) else one
        groups.setdefault(kind, []).append(one)
    for group in groups.values():
        reason = _joined([one.reason for one in group])
        names = listed([one.what for one in group])
        rules = len(_RULE.findall(names))
        if len(group) == 1 and rules <= _CODES_NAMED:
            yield Entry(names, sentence(reason), _SKIPPED)
        else:
            yield Entry(count(rules, "rule"), sentence(f"{names}: {reason}"), _SKIPPED)


def _joined(reasons: Sequence[str]) -> str:
    """Reasons of one kind as one, with the range of each number that differs."""
    said = ""
    for index, parts in enumerate(zip(*map(_NUMBER.split, reasons), strict=True)):
        lowest, highest = parts[0], parts[0]
        if index % 2:
            lowest, highest = min(parts, key=float), max(parts, key=float)
        said += lowest if lowest == highest else f"{lowest} to {highest}"
    return said


def _refusal(refusal: Refusal) -> Entry:
    where = listed([shortened(name, 60) for name in refusal.sites[:_NAMES_SHOWN]])
    more = len(refusal.sites) - _NAMES_SHOWN
    at = f" (at {where}{f' and {more} more' if more > 0 else ''})" if where else ""
    return Entry(refusal.remedy, sentence(refusal.reason) + at, _REFUSED)
