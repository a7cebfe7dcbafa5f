"""What is wrong and why: the findings as cards, causes first, what they explain folded in."""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.records import Finding
from gradscope.reports.nodes import (
    Block,
    Card,
    Cell,
    Column,
    Fold,
    Mark,
    Names,
    Paragraph,
    Table,
    Tone,
)
from gradscope.reports.wording import SEVERITY, count, listed, number, sentence, spoken

__all__ = ["Tree", "causes_first", "finding_cards", "is_known"]

_NAMES_SHOWN = 4
"""Names listed of a finding's sites; all of them are in the JSON report."""

Tree = tuple[tuple[Finding, "Tree"], ...]
"""Findings, each with the findings that it explains."""


def causes_first(findings: Sequence[Finding]) -> Tree:
    """The findings as a forest: a finding hangs under the one that its ``cause`` names.

    A finding whose cause was not found, is itself, or lies in a circle of causes is a root, so
    that every finding appears exactly once. Trees in which something is new come before those that
    a baseline has, and the worst first; otherwise the order stays.
    """
    parent: dict[int, int] = {}
    for index, finding in enumerate(findings):
        for other, candidate in enumerate(findings):
            if candidate.code == finding.cause and not _reaches(parent, other, index):
                parent[index] = other
                break

    def children(of: int | None) -> Tree:
        found = [
            (finding, children(index))
            for index, finding in enumerate(findings)
            if parent.get(index) == of
        ]
        return tuple(sorted(found, key=is_known))

    return tuple(sorted(children(None), key=lambda tree: (is_known(tree), _worst(tree))))


def is_known(tree: tuple[Finding, Tree]) -> bool:
    """Whether the baseline has all of it."""
    finding, explained = tree
    return finding.known and all(map(is_known, explained))


def finding_cards(findings: Sequence[Finding]) -> tuple[Block, ...]:
    """One card for each cause, worst first; each card holds what it explains."""
    codes = {finding.code for finding in findings}
    return tuple(_card(one, explained, codes) for one, explained in causes_first(findings))


def _reaches(parent: dict[int, int], start: int, goal: int) -> bool:
    """Whether following causes from ``start`` arrives at ``goal``."""
    at: int | None = start
    while at is not None and at != goal:
        at = parent.get(at)
    return at is not None


def _worst(tree: tuple[Finding, Tree]) -> int:
    finding, explained = tree
    return min([finding.severity.rank, *(_worst(each) for each in explained)])


def _card(finding: Finding, explained: Tree, codes: set[str]) -> Card:
    blocks: list[Block] = [Paragraph(sentence(finding.message))]
    mark = SEVERITY[finding.severity]
    if finding.known:
        mark = Mark(mark.symbol, f"known {mark.word}", Tone.MUTED)
        blocks.append(Paragraph("Known: the baseline has it.", Tone.MUTED))
    if finding.evidence:
        blocks.append(_evidence(finding))
    if finding.sites:
        shown = finding.sites[:_NAMES_SHOWN]
        blocks.append(Names("where", shown, len(finding.sites) - len(shown)))
    if finding.remedies:
        blocks.append(Names("remedies", finding.remedies))
    if finding.cause is not None and finding.cause not in codes:
        blocks.append(
            Paragraph(f"Its cause, {finding.cause}, is not among these findings.", Tone.MUTED)
        )
    if explained:
        blocks.append(
            Fold(
                f"It explains {count(len(explained), 'symptom')}: "
                f"{listed([spoken(each.name) for each, _ in explained])}",
                tuple(_card(each, below, codes) for each, below in explained),
                open=True,
            )
        )
    return Card(mark, finding.code, finding.name, tuple(blocks))


def _evidence(finding: Finding) -> Table:
    return Table(
        (
            Column("measure"),
            Column("value", numeric=True),
            Column("limit", numeric=True),
            Column("source"),
        ),
        tuple(
            (
                Cell(spoken(measure)),
                Cell(number(seen.value)),
                Cell(number(seen.limit), Tone.MUTED),
                Cell(seen.source.value, Tone.MUTED),
            )
            for measure, seen in finding.evidence.items()
        ),
    )
