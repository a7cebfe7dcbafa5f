"""What a comparison comes to: whether B is worse, in one line that names what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gradscope.records import Finding, Severity
from gradscope.reports.comparing.side_by_side import FindingPair, PictureKind, SideBySide, Standing
from gradscope.reports.nodes import Headline, Mark, Tone
from gradscope.reports.wording import (
    count,
    listed,
    number,
    sentence,
    shortened,
    spoken,
    visible,
)

__all__ = ["are_of_one_model", "headline"]

_NAMED = 3
"""Findings of one standing that are named; the table has all."""


def headline(comparison: SideBySide) -> Headline:
    """Whether B is worse, what changed by name, and what lies behind it."""
    pairs = comparison.findings
    standings = Counter(pair.standing for pair in pairs)
    changes = list(_changes(pairs))
    if comparison.worse:
        mark = Mark("✗", "B is worse", Tone.BAD)
    elif standings[Standing.GONE] or standings[Standing.BETTER]:
        mark = Mark("✓", "B is better", Tone.GOOD)
    elif standings[Standing.UNCHECKED]:
        mark = Mark("?", "unclear", Tone.WARN)
        changes.insert(0, "nothing new in B, but not all was checked")
    else:
        mark = Mark("=", "no worse", Tone.PLAIN if pairs else Tone.GOOD)
        both = len(pairs) - standings[Standing.NEW]
        same = "the same finding" if both == 1 else f"the same {both} findings"
        changes.insert(0, same if both else "no findings in either" if not pairs else "")
    text = "; ".join(filter(None, changes))
    return Headline(mark, sentence(text), " ".join(_details(comparison)))


def _changes(pairs: Sequence[FindingPair]) -> Iterator[str]:
    new = [pair for pair in pairs if pair.standing is Standing.NEW]
    counted = [pair for pair in new if pair.is_regression]
    if counted:
        unchecked = sum(pair.unchecked_in_a for pair in counted)
        told = f" ({unchecked} not checked in A)" if unchecked else ""
        yield f"{count(len(counted), 'new finding')}{told}{_named(counted)}"
    for standing, said in (
        (Standing.WORSE, "more severe"),
        (Standing.GONE, "gone"),
        (Standing.BETTER, "less severe"),
        (Standing.STRONGER, "stronger"),
        (Standing.WEAKER, "weaker"),
        (Standing.UNCHECKED, "not checked in B"),
    ):
        if such := [pair for pair in pairs if pair.standing is standing]:
            yield f"{len(such)} {said}{_named(such)}"
    if len(new) > len(counted):
        yield f"{len(new) - len(counted)} new for info"


def _named(pairs: Sequence[FindingPair]) -> str:
    names = [spoken(pair.name) for pair in pairs[:_NAMED]]
    more = len(pairs) - len(names)
    return f": {listed([*names, f'{more} more'] if more else names)}"


def _details(comparison: SideBySide) -> Iterator[str]:
    pairs = comparison.findings
    a = _severities([pair.a for pair in pairs if pair.a is not None])
    b = _severities([pair.b for pair in pairs if pair.b is not None])
    if a != b:
        yield f"A has {a}, B {b}."
    elif pairs:
        yield f"Both have {a}."
    before, after = comparison.a.loss, comparison.b.loss
    if before is not None and after is not None:
        yield f"The loss ends at {number(before)} in A, at {number(after)} in B."
    if are_of_one_model(comparison):
        yield from _largest_change(comparison)
    else:
        yield "These are different models: no parameter has the same name in both."


def are_of_one_model(comparison: SideBySide) -> bool:
    """Whether A and B have a parameter of one name, as far as they have any."""
    return comparison.parameters is None or comparison.parameters.shared > 0


def _severities(findings: Sequence[Finding]) -> str:
    amounts = Counter(finding.severity for finding in findings)
    said = [
        count(amounts[severity], severity.value)
        if severity is not Severity.INFO
        else f"{amounts[severity]} for info"
        for severity in Severity
        if amounts[severity]
    ]
    return listed(said) or "no finding"


def _largest_change(comparison: SideBySide) -> Iterator[str]:
    picture = comparison.picture
    if picture is None or not picture.places:
        return
    most = max(picture.places, key=lambda place: place.difference)
    if not most.difference:
        return
    stored = picture.kind is PictureKind.STORED
    what, a, b = "gradient" if stored else "backward signal", most.a.gradient, most.b.gradient
    if a is None or b is None:
        what, a, b = "scale" if stored else "forward signal", most.a.scale, most.b.scale
    yield (
        f"Of {count(len(picture.places), 'layer' if stored else 'site')} in both "
        f"{shortened(visible(most.name), 40)} differs most: {what} {number(a)} in A, "
        f"{number(b)} in B."
    )
