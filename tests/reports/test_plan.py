"""The lines that a report shows to apply its plan: they run as they stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradscope import apply, load_plan, load_subject
from gradscope.records import Change, Plan, Prescription, Report, Status, Verdict
from gradscope.reports import render_plan, view
from gradscope.reports.nodes import Code, Fold, Section
from gradscope.reports.sections.plan import application

SUBJECT = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2))

def other():
    return nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2), nn.Identity())

def build_optimizer(parameters):
    return torch.optim.RMSprop(parameters)
"""
NORM = Prescription(
    "norm-insertion", (Change.STRUCTURE,), ("1",), {"layers": "BatchNorm1d(8)"}, "GS204", "why"
)
CLIPPING = Prescription("gradient-clipping", (Change.TRAINING,), (), {}, "GS104", "why")
SWAP = Prescription(
    "optimizer-swap", (Change.TRAINING,), (), {"optimizer": "adam", "lr": 0.001}, "GS101", "why"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my model.py").write_text(SUBJECT, encoding="utf-8")
    (tmp_path / "out dir").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(report: Report, *prescriptions: Prescription, status: Status = Status.FIXED) -> Report:
    return replace(
        report,
        target=replace(report.target, name="my model.py"),
        plan=Plan(prescriptions),
        verdict=Verdict(status, "so it is"),
        environment={"command": "gradscope fix 'my model.py' --out 'out dir'"},
    )


def section(report: Report) -> Section:
    (found,) = [each for each in view(report).sections if each.title == "Plan"]
    return found


def lines(report: Report) -> tuple[str, ...]:
    (code,) = [each for each in section(report).blocks if isinstance(each, Code)]
    return code.lines


def written(report: Report, folder: Path) -> dict[str, torch.Tensor]:
    """The files that ``fix`` writes; returns the weights that it leaves."""
    assert report.plan is not None
    (folder / "plan.json").write_text(render_plan(report.plan), encoding="utf-8")
    model = load_subject("my model.py").build_model()
    apply(model, load_plan(folder / "plan.json"))
    torch.save(model.state_dict(), folder / "repaired.pt")
    return model.state_dict()


def test_the_lines_run_as_they_stand(healthy: Report, folder: Path) -> None:
    report = planned(healthy, NORM, SWAP)
    weights = written(report, folder / "out dir")
    names: dict[str, object] = {}
    exec("\n".join(lines(report)), names)
    model, patch = names["model"], names["patch"]
    assert isinstance(model, torch.nn.Module)
    assert any(isinstance(each, torch.nn.BatchNorm1d) for each in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert isinstance(names["optimizer"], torch.optim.Adam)
    patch.undo()  # type: ignore[attr-defined]
    assert not any(isinstance(each, torch.nn.BatchNorm1d) for each in model.modules())


def test_an_optimizer_that_the_plan_keeps_is_the_subjects_own(
    healthy: Report, folder: Path
) -> None:
    report = planned(healthy, NORM, CLIPPING)
    written(report, folder / "out dir")
    names: dict[str, object] = {}
    exec("\n".join(lines(report)), names)
    assert isinstance(names["optimizer"], torch.optim.RMSprop)


def test_without_an_optimizer_that_of_the_trials_is_named(healthy: Report, folder: Path) -> None:
    assert healthy.profile is not None
    none = replace(healthy, profile=replace(healthy.profile, optimizer=None))
    report = planned(none, SWAP)
    assert "    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)" in lines(report)
    written(report, folder / "out dir")
    exec("\n".join(lines(report)), {})


def test_another_builder_is_kept(healthy: Report, folder: Path) -> None:
    command = "gradscope fix 'my model.py' --model='my model.py:other' --out=here"
    report = replace(planned(healthy, NORM), environment={"command": command})
    (folder / "here").mkdir()
    written(report, folder / "here")
    names: dict[str, object] = {}
    exec("\n".join(line for line in lines(report) if "repaired.pt" not in line), names)
    assert len(names["model"]) == 4  # type: ignore[arg-type]


def test_what_did_not_help_is_folded(healthy: Report) -> None:
    for status in (Status.NO_EFFECT, Status.WORSE_UNDONE):
        folds = [
            each
            for each in section(planned(healthy, NORM, status=status)).blocks
            if isinstance(each, Fold)
        ]
        assert [fold.summary for fold in folds] == ["How it is applied all the same"]
        assert not any("repaired.pt" in line for line in folds[0].blocks[0].lines)  # type: ignore[union-attr]


def test_a_model_of_ones_own_is_said_to_be(healthy: Report) -> None:
    report = planned(healthy, NORM)
    report = replace(report, target=replace(report.target, kind="live model"), environment={})
    shown = lines(report)
    assert "# model is yours, as it was examined" in shown
    assert "patch = gradscope.apply(model, gradscope.load_plan('plan.json'))" in shown
    assert report.plan is not None
    broken = replace(report, environment={"command": "gradscope 'fix"})
    assert tuple(application(broken, report.plan)) == shown


def test_the_demo_writes_where_it_says(healthy: Report) -> None:
    report = replace(planned(healthy, NORM), environment={"command": "gradscope demo"})
    assert any("gradscope-demo" in line and "plan.json" in line for line in lines(report))
