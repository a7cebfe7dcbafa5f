"""What SARIF and JUnit say alike: what a finding says in plain text, and what was not done."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gradscope.records import Finding, Refusal, Report, Skipped
from gradscope.reports.wording import count, listed, number, sentence, visible

__all__ = ["at", "evidence_of", "explained", "located", "rules_of", "skips_and_refusals", "unread"]

_SITES_TOLD = 10
_CODES = re.compile(r"[A-Z]+\d+(, [A-Z]+\d+)*")


def located(finding: Finding) -> str:
    """The finding in a sentence, and its first sites."""
    where = at(finding.sites)
    return sentence(visible(finding.message)) + (f" A{where[2:]}." if where else "")


def evidence_of(finding: Finding) -> Iterator[str]:
    """A line for each number that the finding rests on."""
    for measure, one in finding.evidence.items():
        limit = "" if one.limit is None else f", limit {number(one.limit)}"
        yield f"{visible(measure)}: {number(one.value)}{limit} ({one.source})"


def explained(finding: Finding) -> Iterator[str]:
    """Sentences on what brought the finding about and what treats it."""
    if finding.cause is not None:
        yield f"Explained by {visible(finding.cause)}."
    if finding.remedies:
        yield f"Treated by {listed([visible(each) for each in finding.remedies])}."


def at(sites: Sequence[str]) -> str:
    """`` at a, b and c``: the first of the sites; nothing where there are none."""
    named = [visible(site) for site in sites[:_SITES_TOLD]]
    if len(sites) > len(named):
        return f" at {', '.join(named)} and {count(len(sites) - len(named), 'more site')}"
    return f" at {listed(named)}" if named else ""


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
