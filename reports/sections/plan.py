"""The plan: what it changes, and the lines of Python that do it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePath

from gradscope.records import Change, Plan, Prescription, Report, Status
from gradscope.reports.nodes import (
    Block,
    Card,
    Code,
    Entry,
    Fold,
    Items,
    Mark,
    Names,
    Paragraph,
    Tone,
)
from gradscope.reports.wording import count, listed, number, sentence

__all__ = ["application", "plan_blocks"]

_NAMES_SHOWN = 6
_STATE = {
    Status.FIXED: "Applied and verified.",
    Status.IMPROVED: "Applied and verified as an improvement.",
    Status.NO_EFFECT: "Tried without effect.",
    Status.WORSE_UNDONE: "Tried and undone: the model is as it was.",
    Status.UNVERIFIED: "Not verified.",
    Status.NOTHING_TO_FIX: "",
}
_LEAVES_WEIGHTS = (Status.FIXED, Status.IMPROVED)
"""After which ``fix`` writes the weights of the repaired model."""
_NOT_WORTH_IT = (Status.NO_EFFECT, Status.WORSE_UNDONE)
_LOADED = ("subject file", "model factory", "Hugging Face folder")
"""Kinds of targets whose name ``load_subject`` takes."""
_DEMO_FOLDER = "gradscope-demo"


def plan_blocks(report: Report) -> tuple[Block, ...]:
    """What is done where and why, how to do it again, and what else was considered."""
    plan, verdict = report.plan, report.verdict
    if plan is None or not (plan.prescriptions or plan.alternatives):
        return ()
    state = _STATE[verdict.status] if verdict else "Proposed; nothing was changed yet."
    blocks: list[Block] = [Paragraph(state, Tone.MUTED)] if state else []
    blocks += [_prescription(one) for one in plan.prescriptions]
    if plan.prescriptions:
        blocks += _how_to_apply(report, plan)
    if plan.alternatives:
        blocks.append(
            Fold(
                f"{count(len(plan.alternatives), 'alternative')} considered",
                tuple(_prescription(one) for plans in plan.alternatives for one in plans),
            )
        )
    return tuple(blocks)


def _how_to_apply(report: Report, plan: Plan) -> tuple[Block, ...]:
    where = "where the command was run" if _folder(report) else "beside plan.json"
    code = Code(tuple(application(report, plan)))
    if report.verdict is not None and report.verdict.status in _NOT_WORTH_IT:
        return (Fold("How it is applied all the same", (code,)),)
    return Paragraph(f"To apply it to a fresh model, in Python, {where}:"), code


def application(report: Report, plan: Plan) -> Iterator[str]:
    """The lines that build the model, apply the plan, train as prescribed, and take it back."""
    verdict, folder = report.verdict, _folder(report)
    loaded = report.target.kind.startswith(_LOADED)
    trains = any(Change.TRAINING in one.changes for one in plan.prescriptions)
    weights = verdict is not None and verdict.status in _LEAVES_WEIGHTS
    own = report.profile is None or report.profile.optimizer is not None
    yield "import gradscope"
    if weights or (trains and not own):
        yield "import torch"
    if loaded:
        model = _given(report, "--model")
        builder = f", model={model!r}" if model else ""
        yield f"subject = gradscope.load_subject({report.target.name!r}{builder})"
        yield "model = subject.build_model()"
    else:
        yield "# model is yours, as it was examined"
    yield f"patch = gradscope.apply(model, gradscope.load_plan({_path(folder, 'plan.json')}))"
    if weights:
        yield "# To go on from the weights that one trial ended with; leave it out to start anew:"
        yield f"model.load_state_dict(torch.load({_path(folder, 'repaired.pt')}))"
    if trains:
        yield "# The plan changes the training, so it makes the optimizer:"
        yield from _optimizer(loaded, own)
    yield "# patch.undo() takes it off again, such as before the model is exported"


def _optimizer(loaded: bool, own: bool) -> Iterator[str]:
    if not own:
        # What the trials used, where the subject has none.
        yield "def build_optimizer(parameters):"
        yield "    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)"
        yield ""
    elif not loaded:
        yield "# build_optimizer(parameters) makes the one that you use"
    build = "subject.build_optimizer" if own and loaded else "build_optimizer"
    yield f"optimizer = patch.build_optimizer(model.parameters(), {build})"


def _path(folder: PurePath | None, name: str) -> str:
    return repr(str(folder / name) if folder else name)


def _folder(report: Report) -> PurePath | None:
    """Where the command that made the report wrote its files, as it was given."""
    folder = _given(report, "--out")
    if folder is None and _words(report)[1:2] == ["demo"]:
        folder = _DEMO_FOLDER
    return PurePath(folder) if folder else None


def _given(report: Report, option: str) -> str | None:
    """What an option of the command was set to; None where it was not given."""
    for word, following in pairwise([*_words(report), ""]):
        if word == option:
            return following or None
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def _words(report: Report) -> list[str]:
    try:
        return shlex.split(report.environment.get("command", ""))
    except ValueError:  # Of a report by another hand.
        return []


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
