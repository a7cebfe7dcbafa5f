"""The verdict line: what a manager takes away, in one sentence, and one more that says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradscope.records import Finding, Report, Severity, Source, Status, Verdict
from gradscope.reports.nodes import Headline, Mark, Tone
from gradscope.reports.sections.diagnosis import Tree, causes_first, is_known
from gradscope.reports.sections.stored import looked_at_stored
from gradscope.reports.sections.training import looked_over_run
from gradscope.reports.sections.trajectory import looked_over
from gradscope.reports.wording import (
    SEVERITY,
    STATUS,
    count,
    distinct,
    listed,
    number,
    sentence,
    spoken,
)

__all__ = ["headline"]

_CAUSES_NAMED = 2
"""Causes that the headline names; the sections name all."""

_OUTCOME = {
    Status.FIXED: "The model learns now",
    Status.IMPROVED: "The repair helps, but it does not cure",
    Status.NO_EFFECT: "No repair made a difference",
    Status.WORSE_UNDONE: "The repair made training worse and was undone",
    Status.UNVERIFIED: "A repair is proposed, but nothing proves that it helps",
}
_CURED = (Status.FIXED, Status.IMPROVED)


def headline(report: Report) -> Headline:
    """The outcome of a repair; of a scan, what is wrong, or that nothing is."""
    verdict = report.verdict
    if verdict is None:
        return _scanned(report)
    mark = STATUS[verdict.status]
    if verdict.status is Status.NOTHING_TO_FIX:
        if not report.findings:
            return Headline(mark, "No fault was found in this model.", _looked_at(report))
        return Headline(mark, "No fault was found that needs a repair.", sentence(verdict.reason))
    detail = sentence(verdict.reason)
    if report.findings:
        when = "was" if verdict.status in _CURED else "is"
        detail += f" What {when} wrong: {_causes(causes_first(report.findings))}."
    return Headline(mark, sentence(_outcome(verdict)), detail)


def _outcome(verdict: Verdict) -> str:
    if verdict.status is Status.NO_EFFECT and not verdict.trials:
        return "Something is wrong, and no repair could be tried"
    text = _OUTCOME[verdict.status]
    metric, before, after = verdict.metric, verdict.before, verdict.after
    if metric is None or before is None or after is None:
        return text
    moved = "rose" if after > before else "fell" if after < before else "went"
    if after == before:
        text += f": {spoken(metric)} stayed at {number(before)}"
    else:
        text += f": {spoken(metric)} {moved} from {' to '.join(distinct(before, after))}"
    if verdict.seeds:
        text += f", the mean of {count(len(verdict.seeds), 'pair')} of trainings"
    return text


# --- Without a repair -------------------------------------------------------------------------


def _scanned(report: Report) -> Headline:
    findings, looked_at = report.findings, _looked_at(report)
    if not findings:
        return Headline(*_nothing_found(report), looked_at)
    new = [finding for finding in findings if not finding.known]
    known = len(findings) - len(new)
    if not new:
        mark = Mark("✓", "nothing new", Tone.GOOD)
        return Headline(mark, f"No new findings; {known:,} known.", looked_at)
    worst = min(new, key=lambda finding: finding.severity.rank).severity
    trees = tuple(tree for tree in causes_first(findings) if not is_known(tree))
    text = f"{_said(report, worst)}: {_causes(trees)}"
    if known:
        text += f"; {count(known, 'finding')} besides {'is' if known == 1 else 'are'} known"
    mark = replace(SEVERITY[worst], word=_counted(new, "new " if known else ""))
    return Headline(mark, sentence(text), looked_at)


def _nothing_found(report: Report) -> tuple[Mark, str]:
    profile = report.profile
    if profile is None:
        return Mark("?", "not examined", Tone.WARN), "Nothing was examined."
    if profile.training is not None and profile.training.last_step < 0:
        return Mark("?", "nothing recorded", Tone.WARN), "There is nothing to judge yet."
    if profile.training is not None and profile.training.alerts:
        return Mark("✓", "healthy", Tone.GOOD), "No fault stands at the end; all went again."
    if profile.source is Source.SYNTHETIC:
        # Rules that need data were skipped, and they are many.
        return Mark("✓", "nothing found", Tone.GOOD), "No fault was found on made-up inputs."
    if profile.measured or profile.training is not None:
        return Mark("✓", "healthy", Tone.GOOD), "No fault was found."
    # What is only read is told too little of to be called healthy.
    return Mark("✓", "nothing found", Tone.GOOD), "No fault can be seen in what is stored."


def _said(report: Report, worst: Severity) -> str:
    """What the findings mean for the training, for someone who knows none of their names."""
    if worst is Severity.INFO:
        return "Nothing seems wrong; for information"
    profile, sure = report.profile, worst is Severity.ERROR
    if profile is not None and profile.training is not None:
        if profile.training.ended is None:
            return f"This training {'is' if sure else 'may be'} going wrong"
        return f"This training {'went' if sure else 'may have gone'} wrong"
    if profile is not None and not profile.measured and profile.stored is not None:
        which = "The newest checkpoint" if profile.trajectory else "This checkpoint"
        return f"{which} {'shows that' if sure else 'hints that'} its training went wrong"
    return f"This model {'is unlikely to' if sure else 'may not'} train well"


def _causes(trees: Tree) -> str:
    named = [
        _caused(finding, [symptom for symptom, _ in explained])
        for finding, explained in trees[:_CAUSES_NAMED]
    ]
    more = len(trees) - len(named)
    return "; ".join(named) + (f"; and {more:,} more" if more else "")


def _caused(finding: Finding, symptoms: Sequence[Finding]) -> str:
    name = spoken(finding.name) + (" (known)" if finding.known else "")
    return f"{name} causes {listed([spoken(each.name) for each in symptoms])}" if symptoms else name


def _counted(findings: Sequence[Finding], what: str) -> str:
    counts = []
    for severity in Severity:
        amount = sum(finding.severity is severity for finding in findings)
        if amount and severity is Severity.INFO:
            counts.append(f"{amount} {what}for info")
        elif amount:
            counts.append(count(amount, f"{what}{severity.value}"))
    return listed(counts)


def _looked_at(report: Report) -> str:
    profile = report.profile
    if profile is None:
        return "The model was not run."
    if profile.training is not None:
        return looked_over_run(profile.training)
    if not profile.measured and profile.stored is not None:
        over = f"{looked_over(profile.trajectory)} " if profile.trajectory else ""
        return f"{over}{looked_at_stored(profile.stored)}; the model was not run."
    read = "" if profile.stored is None else f" {looked_at_stored(profile.stored)}."
    data = "its own data"
    if profile.source is Source.SYNTHETIC:
        data = "made-up inputs, which tell nothing of the data"
    return (
        f"Looked at {count(len(profile.sites), 'site')} and "
        f"{count(len(profile.parameters), 'parameter tensor')} over "
        f"{count(profile.steps, 'step')} with {count(profile.batch_size, 'sample')} each, "
        f"on {data}.{read}"
    )
