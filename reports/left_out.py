"""What a report says was left out: skips, refusals, rules that did not run, unread checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gradscope.records import Refusal, Report, Skipped

__all__ = ["rules_of", "skips_and_refusals", "unread"]

_CODES = re.compile(r"[A-Z]+\d+(, [A-Z]+\d+)*")


def skips_and_refusals(report: Report) -> tuple[tuple[Skipped, ...], tuple[Refusal, ...]]:
    """All that was left out, each once, wherever the report notes it."""
    skipped: dict[Skipped, None] = dict.fromkeys(report.skipped)
    if report.profile is not None:
        skipped |= dict.fromkeys(report.profile.skipped)
    refused: dict[Refusal, None] = dict.fromkeys(report.refusals)
    if report.plan is not None:
        refused |= dict.fromkeys(report.plan.refusals)
    return tuple(skipped), tuple(refused)


def rules_of(skipped: Skipped) -> tuple[str, ...]:
    """Codes of the rules that did not run; none where anything else was left out."""
    return tuple(skipped.what.split(", ")) if _CODES.fullmatch(skipped.what) else ()


def unread(report: Report) -> Iterator[Skipped]:
    """The checkpoints that could not be read, and why."""
    for snapshot in report.profile.trajectory if report.profile is not None else ():
        if snapshot.unread:
            yield Skipped(snapshot.name, snapshot.unread)
