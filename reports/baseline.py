"""Holds a report against one that was saved before: what that has already is known.

A finding is known if the baseline has one of the same code that is at least as severe, and all its
sites are sites of that one. Values do not count: a ratio that got worse within its severity is
known. Everything else is new, in doubt too: a fault that moved by one layer or reached one layer
more, a model whose layers were renamed or counted anew, and a finding about the model as a whole
where the baseline's was about some sites.

When it is wrong: a fault that went away and came back at the same sites is known for as long as the
baseline is not saved again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

from gradscope.records import Finding, Report

__all__ = ["against", "held", "mismatch"]

_KEY = "baseline"


def against(report: Report, baseline: Report, name: str = "") -> Report:
    """The report, with the findings that the baseline has marked as known.

    Args:
        report: what is judged; marks of before are forgotten.
        baseline: what is known, whether or not it was held against a baseline itself.
        name: of the baseline's file; it is told in the report's environment.
    """
    findings = tuple(
        replace(finding, known=any(_covers(before, finding) for before in baseline.findings))
        for finding in report.findings
    )
    environment = {**report.environment, _KEY: name or baseline.target.name}
    return replace(report, findings=findings, environment=environment)


def held(report: Report) -> bool:
    """Whether the report was held against a baseline."""
    return _KEY in report.environment or any(finding.known for finding in report.findings)


def mismatch(report: Report, baseline: Report) -> str:
    """Why the baseline looks like one of another target; empty where it does not."""
    if PurePath(report.target.name) != PurePath(baseline.target.name):
        return f"it is of {baseline.target.name}, and this report of {report.target.name}"
    here, there = _parameters(report), _parameters(baseline)
    if here and there and not here & there:
        return f"no parameter of it is in {report.target.name} now"
    return ""


def _covers(before: Finding, finding: Finding) -> bool:
    return (
        before.code == finding.code
        and before.severity.rank <= finding.severity.rank
        and set(finding.sites) <= set(before.sites)
        and bool(finding.sites) == bool(before.sites)
    )


def _parameters(report: Report) -> set[str]:
    profile = report.profile
    if profile is None:
        return set()
    if profile.measured or profile.stored is None:
        return {parameter.name for parameter in profile.parameters}
    return set(profile.stored.shapes)
