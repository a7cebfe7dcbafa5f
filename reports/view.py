"""The one place that decides what a reader sees of a report, and in which order.

Verdict first, in words a manager understands; then what is wrong and why, what was tried, the
numbers of the verdict, the signal picture, the plan, what was not done, and where it ran. A
healthy model gets a short report. Renderers draw what stands here and decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradscope.records import (
    Change,
    Finding,
    Plan,
    Prescription,
    Report,
    Severity,
    Source,
    Status,
    Verdict,
)
from gradscope.reports.diagnosis import causes_first, finding_cards
from gradscope.reports.nodes import (
    Block,
    Card,
    Code,
    Document,
    Entry,
    Fold,
    Headline,
    Items,
    Mark,
    Names,
    Paragraph,
    Section,
    Tone,
)
from gradscope.reports.proof import tried, verdict_numbers
from gradscope.reports.signal import signal
from gradscope.reports.stored import looked_at_stored, stored_layers
from gradscope.reports.training import looked_over_run, over_run
from gradscope.reports.trajectory import looked_over, over_training
from gradscope.reports.undone import undone
from gradscope.reports.wording import (
    SEVERITY,
    STATUS,
    count,
    each_string,
    listed,
    number,
    sentence,
    spoken,
    visible,
)

__all__ = ["view"]

_NAMES_SHOWN = 6
_CAUSES_NAMED = 2
"""Findings that the headline names; the sections name all."""

_PLAN_STATE = {
    Status.FIXED: "Applied and verified.",
    Status.IMPROVED: "Applied and verified as an improvement.",
    Status.NO_EFFECT: "Tried without effect.",
    Status.WORSE_UNDONE: "Tried and undone: the model is as it was.",
    Status.UNVERIFIED: "Not verified.",
    Status.NOTHING_TO_FIX: "",
}


def view(report: Report) -> Document:
    """The report as a tree of what to show; see :mod:`gradscope.reports.nodes`."""
    verdict = report.verdict
    sections = (
        Section("What is wrong and why", finding_cards(report.findings)),
        Section("Over training", _over_training(report)),
        Section("What was tried", tried(verdict) if verdict else ()),
        Section("Verdict", _verdict(verdict, report.findings) if verdict else ()),
        Section("Signal over depth", _signal(report)),
        Section("Layer by layer", _stored(report)),
        Section("Plan", _plan(report.plan, verdict)),
        Section("Skipped and refused", undone(report), folded=True),
        Section("Environment and target", (_environment(report),), folded=True),
    )
    document = Document(
        title=report.target.name,
        about=f"{report.target.kind}, {count(report.target.parameters, 'parameter')}; "
        f"examined by {report.tool.name} {report.tool.version}",
        headline=_headline(report),
        sections=tuple(section for section in sections if section.blocks),
    )
    # In the end and for all of them, so that no builder of nodes can forget to.
    shown: Document = each_string(document, visible)
    return shown


# --- The headline -----------------------------------------------------------------------------


def _headline(report: Report) -> Headline:
    verdict = report.verdict
    if verdict is None:
        return _scanned(report)
    text = {
        Status.FIXED: "The model learns now",
        Status.IMPROVED: "The repair helps, but it does not cure",
        Status.NO_EFFECT: "No repair made a difference",
        Status.WORSE_UNDONE: "The repair made training worse and was undone",
        Status.UNVERIFIED: "A repair is proposed, but nothing proves that it helps",
        Status.NOTHING_TO_FIX: "Nothing to fix",
    }[verdict.status]
    metric, before, after = verdict.metric, verdict.before, verdict.after
    if metric is not None and before is not None and after is not None:
        moved = "rose" if after > before else "fell" if after < before else "went"
        if after == before:
            text += f": {spoken(metric)} stayed at {number(before)}"
        else:
            text += f": {spoken(metric)} {moved} from {number(before)} to {number(after)}"
        if verdict.seeds:
            text += f" on {count(len(verdict.seeds), 'matched seed')}"
    if verdict.status is Status.NOTHING_TO_FIX and not report.findings:
        return Headline(STATUS[verdict.status], sentence(text), _looked_at(report))
    return Headline(STATUS[verdict.status], sentence(text), sentence(verdict.reason))


def _scanned(report: Report) -> Headline:
    if not report.findings:
        return Headline(Mark("✓", "healthy", Tone.GOOD), "No findings.", _looked_at(report))
    counts = [
        count(amount, severity.value) if severity is not Severity.INFO else f"{amount} for info"
        for severity in Severity
        if (amount := sum(finding.severity is severity for finding in report.findings))
    ]
    worst = min(report.findings, key=lambda finding: finding.severity.rank).severity
    trees = causes_first(report.findings)
    named = [
        _caused(finding, [symptom for symptom, _ in explained])
        for finding, explained in trees[:_CAUSES_NAMED]
    ]
    more = len(trees) - len(named)
    text = "; ".join(named) + (f"; and {more} more" if more else "")
    return Headline(
        replace(SEVERITY[worst], word=listed(counts)),
        sentence(text[:1].upper() + text[1:]),
        _looked_at(report),
    )


def _caused(finding: Finding, symptoms: Sequence[Finding]) -> str:
    if not symptoms:
        return spoken(finding.name)
    return f"{spoken(finding.name)} causes {listed([spoken(each.name) for each in symptoms])}"


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
    data = "made-up inputs" if profile.source is Source.SYNTHETIC else "its own data"
    return (
        f"Looked at {count(len(profile.sites), 'site')} and "
        f"{count(len(profile.parameters), 'parameter tensor')} over "
        f"{count(profile.steps, 'step')} with {count(profile.batch_size, 'sample')} each, "
        f"on {data}.{read}"
    )


# --- The sections -----------------------------------------------------------------------------


def _verdict(verdict: Verdict, findings: Sequence[Finding]) -> tuple[Block, ...]:
    if verdict.status is Status.NOTHING_TO_FIX and not verdict.trials:
        return ()
    return verdict_numbers(verdict, {finding.code: finding.name for finding in findings})


def _over_training(report: Report) -> tuple[Block, ...]:
    profile = report.profile
    if profile is not None and profile.training is not None:
        return over_run(profile.training)
    return over_training(profile.trajectory) if profile is not None and profile.trajectory else ()


def _signal(report: Report) -> tuple[Block, ...]:
    profile = report.profile
    if profile is None or not profile.measured:
        return ()
    return _folded(signal(profile, report.verdict.profile if report.verdict else None), report)


def _stored(report: Report) -> tuple[Block, ...]:
    return _folded(() if report.profile is None else stored_layers(report.profile), report)


def _folded(blocks: tuple[Block, ...], report: Report) -> tuple[Block, ...]:
    if blocks and not report.findings:
        return (Fold("The picture of a healthy model, for comparison", blocks),)
    return blocks


def _plan(plan: Plan | None, verdict: Verdict | None) -> tuple[Block, ...]:
    if plan is None or not (plan.prescriptions or plan.alternatives):
        return ()
    state = _PLAN_STATE[verdict.status] if verdict else "Proposed; nothing was changed yet."
    blocks: list[Block] = [Paragraph(state, Tone.MUTED)] if state else []
    blocks += [_prescription(one) for one in plan.prescriptions]
    if plan.prescriptions:
        blocks.append(Paragraph("To apply it again, to a model with fresh weights too:"))
        blocks.append(Code(tuple(_application(plan))))
    if plan.alternatives:
        blocks.append(
            Fold(
                f"{count(len(plan.alternatives), 'alternative')} considered",
                tuple(_prescription(one) for plans in plan.alternatives for one in plans),
            )
        )
    return tuple(blocks)


def _application(plan: Plan) -> Iterator[str]:
    """The lines that apply a plan to a model and train it as prescribed."""
    yield "import gradscope"
    yield 'patch = gradscope.apply(model, gradscope.load_plan("plan.json"))'
    if any(Change.TRAINING in one.changes for one in plan.prescriptions):
        yield "optimizer = patch.build_optimizer(model.parameters())"


def _prescription(one: Prescription) -> Card:
    changes = listed([change.value for change in one.changes]) or "nothing"
    mark = Mark("✓", "safe", Tone.GOOD) if one.safe else Mark("▲", "changes the model", Tone.WARN)
    entries = [Entry("treats", one.finding), Entry("changes", changes)]
    entries += [
        Entry(name, number(value) if type(value) in (int, float) else str(value))  # type: ignore[arg-type]
        for name, value in one.parameters.items()
    ]
    shown = one.sites[:_NAMES_SHOWN]
    blocks: list[Block] = [Paragraph(sentence(one.reason)), Items(tuple(entries))]
    if shown:
        blocks.append(Names("at", shown, len(one.sites) - len(shown)))
    return Card(mark, one.remedy, "", tuple(blocks))


def _environment(report: Report) -> Items:
    target = report.target
    entries = [
        Entry("target", f"{target.name} ({target.kind})"),
        Entry("parameters", number(target.parameters)),
    ]
    profile = report.profile
    if profile is not None:
        entries.append(Entry("optimizer", profile.optimizer or "none given"))
        if profile.training is None:
            entries.append(Entry("seed", str(profile.seed)))
        else:
            entries.append(Entry("model", profile.training.model))
            entries.append(Entry("command", " ".join(profile.training.command) or "not known"))
            entries.append(Entry("processes", number(profile.processes)))
    entries += [Entry(name, value) for name, value in report.environment.items()]
    entries.append(Entry(report.tool.name, report.tool.version))
    return Items(tuple(entries))
