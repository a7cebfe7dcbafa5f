"""What SARIF and JUnit say alike of a finding, in plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradscope.records import Finding
from gradscope.reports.wording import count, listed, number, sentence, visible

__all__ = ["at", "evidence_of", "explained", "located"]

_SITES_TOLD = 10


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
