"""The one place that decides what a reader sees of a report, and in which order.

Verdict first, in words a manager understands; then what is wrong and why, what was tried, the
numbers of the verdict, the signal picture, the plan, what was not done, and where it ran. A
healthy model gets a short report. Renderers draw what stands here and decide nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from gradscope.records import Finding, Report, Status, Verdict
from gradscope.reports.nodes import (
    Block,
    Code,
    Document,
    Entry,
    Fold,
    Items,
    Paragraph,
    Section,
)
from gradscope.reports.sections.diagnosis import finding_cards
from gradscope.reports.sections.headline import headline
from gradscope.reports.sections.plan import plan_blocks
from gradscope.reports.sections.proof import tried, verdict_numbers
from gradscope.reports.sections.signal import signal
from gradscope.reports.sections.stored import stored_layers
from gradscope.reports.sections.training import over_run
from gradscope.reports.sections.trajectory import over_training
from gradscope.reports.sections.undone import undone
from gradscope.reports.wording import count, each_string, number, visible

__all__ = ["view"]


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
        Section("Plan", plan_blocks(report)),
        Section("Skipped and refused", undone(report), folded=True),
        Section("Environment and target", _environment(report), folded=True),
    )
    document = Document(
        title=report.target.name,
        about=f"{report.target.kind}, {count(report.target.parameters, 'parameter')}; "
        f"examined by {report.tool.name} {report.tool.version}",
        headline=headline(report),
        sections=tuple(section for section in sections if section.blocks),
    )
    # In the end and for all of them, so that no builder of nodes can forget to.
    shown: Document = each_string(document, visible)
    return shown


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
    if report.profile is None or not report.profile.measured:
        return ()
    return _folded(signal(report), report)


def _stored(report: Report) -> tuple[Block, ...]:
    return _folded(() if report.profile is None else stored_layers(report.profile), report)


def _folded(blocks: tuple[Block, ...], report: Report) -> tuple[Block, ...]:
    if blocks and not report.findings:
        return (Fold("The picture of a healthy model, for comparison", blocks),)
    return blocks


def _environment(report: Report) -> tuple[Block, ...]:
    """The exact command, to be copied, and what it ran on."""
    target, profile = report.target, report.profile
    environment = dict(report.environment)
    command = environment.pop("command", "")
    entries = [
        Entry("target", f"{target.name} ({target.kind})"),
        Entry("parameters", number(target.parameters)),
    ]
    if profile is not None:
        entries.append(Entry("optimizer", profile.optimizer or "none given"))
        if profile.training is None:
            entries.append(Entry("seed", str(profile.seed)))
        else:
            entries.append(Entry("model", profile.training.model))
            entries.append(Entry("processes", number(profile.processes)))
            command = shlex.join(profile.training.command) or command
    entries += [Entry(name, value) for name, value in environment.items()]
    entries.append(Entry(report.tool.name, report.tool.version))
    items = Items(tuple(entries))
    return (Paragraph("Made by"), Code((command,)), items) if command else (items,)
