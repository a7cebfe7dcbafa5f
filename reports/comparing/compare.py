"""Holds two reports against each other: finding by finding, and layer by layer.

A finding of A and a finding of B are the same one if they have the same code. Severities decide
what got worse, as they decide what ``scan`` exits with; numbers are shown beside them. Layers are
held against each other where both reports have the same kind of picture: what two checkpoints
store, or what two runs measured. Of a checkpoint and a run the findings alone are.

When it is wrong: a rule that a saved report left out (``--select``) looks like one that found
nothing, for a report does not list the rules that ran.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator

from gradscope.inactive import inactive_units
from gradscope.records import Finding, Measure, Profile, Report
from gradscope.reports.comparing.side_by_side import (
    COMPARISON_SCHEMA_VERSION,
    FindingPair,
    Parameters,
    Picture,
    PictureKind,
    Place,
    Reading,
    Side,
    SideBySide,
    Standing,
)
from gradscope.reports.left_out import rules_of, skips_and_refusals
from gradscope.reports.sections.signal import sites_shown
from gradscope.reports.wording import middle
from gradscope.stored import Stored

__all__ = ["compare"]

_MOVED = 0.1
"""Share of the larger value by which two values must differ for one to be called stronger."""


def compare(
    a: Report, b: Report, *, names: tuple[str, str], codes: Collection[str] | None = None
) -> SideBySide:
    """Holds two reports against each other.

    Args:
        a, b: B is judged by A.
        names: of their files, as given.
        codes: of the rules whose findings are compared; None for all.
    """
    every = [finding.code for finding in (*a.findings, *b.findings)]
    left_out = {code for code in every if codes is not None and code not in codes}
    pairs = [pair for pair in _pairs(a, b) if pair.code not in left_out]
    order = list(Standing)
    parameters = _parameters(a.profile, b.profile)
    # Layers of different models may have a name in common by accident, such as ``0``.
    differ = parameters is not None and not parameters.shared
    pairs.sort(key=lambda pair: (order.index(pair.standing), _rank(pair)))
    return SideBySide(
        schema_version=COMPARISON_SCHEMA_VERSION,
        worse=any(pair.is_regression for pair in pairs),
        a=_side(a, names[0], left_out),
        b=_side(b, names[1], left_out),
        findings=tuple(pairs),
        parameters=parameters,
        picture=None if differ else _picture(a.profile, b.profile),
        left_out=tuple(sorted(left_out)),
    )


def _side(report: Report, name: str, left_out: Collection[str]) -> Side:
    profile = report.profile
    steps, source, loss = None, None, None
    if profile is not None:
        steps = profile.steps if profile.measured or profile.stored is None else profile.stored.step
        if profile.training is not None:
            steps = profile.training.last_step + 1
            loss = next(reversed(profile.training.loss), None)
        source = profile.source
    return Side(
        name=name,
        target=report.target.name,
        kind=report.target.kind,
        tool=report.tool,
        parameters=report.target.parameters,
        steps=steps,
        optimizer=None if profile is None else profile.optimizer,
        source=source,
        findings=sum(finding.code not in left_out for finding in report.findings),
        loss=loss,
    )


# --- Findings ---------------------------------------------------------------------------------


def _pairs(a: Report, b: Report) -> Iterator[FindingPair]:
    # A rule finds one thing; a report by another hand may hold more, and none of them is lost.
    waiting: dict[str, list[Finding]] = defaultdict(list)
    for finding in a.findings:
        waiting[finding.code].append(finding)
    skipped_a, skipped_b = _skipped(a), _skipped(b)
    for after in b.findings:
        before = waiting[after.code].pop(0) if waiting[after.code] else None
        if before is None:
            unchecked = after.code in skipped_a
            yield FindingPair(after.code, after.name, Standing.NEW, None, unchecked, None, after)
            continue
        measure = next((each for each in after.evidence if each in before.evidence), None)
        standing = _standing(before, after, measure)
        yield FindingPair(after.code, after.name, standing, measure, False, before, after)
    for findings in waiting.values():
        for before in findings:
            standing = Standing.UNCHECKED if before.code in skipped_b else Standing.GONE
            yield FindingPair(before.code, before.name, standing, None, False, before, None)


def _standing(before: Finding, after: Finding, measure: str | None) -> Standing:
    if after.severity is not before.severity:
        worse = after.severity.rank < before.severity.rank
        return Standing.WORSE if worse else Standing.BETTER
    if measure is None:
        return Standing.SAME
    return _moved(before.evidence[measure], after.evidence[measure])


def _moved(before: Measure, after: Measure) -> Standing:
    """Further from the limit or nearer to it; values and limits may be anything."""
    old, new = before.value, after.value
    if before.limit is None or after.limit is None or math.isnan(old) or math.isnan(new):
        return Standing.SAME
    above, still_above = old > before.limit, new > after.limit
    if old == new or above is not still_above:
        return Standing.SAME
    size = max(abs(old), abs(new))
    if math.isfinite(size) and abs(new - old) <= _MOVED * size:
        return Standing.SAME
    return Standing.STRONGER if (new > old) is above else Standing.WEAKER


def _skipped(report: Report) -> set[str]:
    """Codes of the rules that did not run; one that was kept from single sites did."""
    skipped, _ = skips_and_refusals(report)
    return {code for one in skipped for code in rules_of(one)}


def _rank(pair: FindingPair) -> int:
    return min(each.severity.rank for each in (pair.a, pair.b) if each is not None)


# --- Layers -----------------------------------------------------------------------------------


def _parameters(a: Profile | None, b: Profile | None) -> Parameters | None:
    before, after = _shapes(a), _shapes(b)
    if not before or not after:
        return None
    return Parameters(
        shared=len(before.keys() & after.keys()),
        only_a=tuple(name for name in before if name not in after),
        only_b=tuple(name for name in after if name not in before),
        reshaped=tuple(name for name, shape in before.items() if after.get(name, shape) != shape),
    )


def _shapes(profile: Profile | None) -> dict[str, tuple[int, ...]]:
    if profile is None:
        return {}
    if profile.measured or profile.stored is None:
        return {each.name: each.shape for each in profile.parameters}
    return profile.stored.shapes


def _picture(a: Profile | None, b: Profile | None) -> Picture | None:
    if a is None or b is None or a.measured is not b.measured:
        return None
    kind = PictureKind.MEASURED if a.measured else PictureKind.STORED
    before, after = _readings(a), _readings(b)
    if not before or not after:
        return None
    places = tuple(
        Place(name, reading, after[name]) for name, reading in before.items() if name in after
    )
    return Picture(kind, places, len(before) - len(places), len(after) - len(places))


def _readings(profile: Profile) -> dict[str, Reading]:
    if profile.stored is not None and not profile.measured:
        return _stored_readings(profile.stored)
    return {
        site.name: Reading(
            gradient=middle(site.backward_rms),
            idle=site.dead if site.dead is not None else site.saturated,
            scale=middle(site.forward_rms),
        )
        for site in sites_shown(profile)
    }


def _stored_readings(stored: Stored) -> dict[str, Reading]:
    found, idle = {}, inactive_units(stored)
    for layer in stored.layers:
        remembered = stored.gradient(layer.name)
        known = remembered is not None and bool(remembered.moment)
        found[layer.name] = Reading(
            gradient=remembered.gradient_rms if remembered is not None and known else None,
            idle=idle.get(layer.name),
            scale=layer.scale,
        )
    return found
