"""``gradscope fix`` and ``gradscope demo``: the files, what they hold, and the exit status."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from gradscope.loading import load_subject
from gradscope.patch import apply
from gradscope.records import Status
from gradscope.reports import read_json, read_plan, schema
from gradscope.trial import evaluate

COMMAND = Path(sys.executable).with_name("gradscope")

QUICK = ("--seeds", "5", "--budget", "2")


def test_nothing_is_to_fix_about_a_healthy_example(gradscope: Any, examples: Path) -> None:
    run = gradscope("fix", examples / "healthy_mlp.py", "--out", "results")
    assert run.status == 0
    assert "othing to fix" in run.out
    report = read_json(Path("results/report.json").read_text(), "report.json")
    assert report.verdict is not None
    assert report.verdict.status is Status.NOTHING_TO_FIX
    assert sorted(path.name for path in Path("results").iterdir()) == [
        "plan.json",
        "report.html",
        "report.json",
    ]
    assert read_plan(Path("results/plan.json").read_text(), "plan.json").prescriptions == ()


def test_what_is_repaired_can_be_had_again(
    gradscope: Any, sick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """repaired.pt fits build_model() under plan.json, and gives the numbers of the report."""
    # Steps enough for a repair to show, whatever the machine can do in the budget.
    monkeypatch.setattr(importlib.import_module("gradscope.verify"), "_rounded", lambda _: 150)
    run = gradscope(
        *("fix", sick, "--out", "results", "--unsafe", "--remedy", "norm-insertion"), *QUICK
    )
    report = read_json(Path("results/report.json").read_text(), "report.json")
    verdict = report.verdict
    assert verdict is not None
    assert verdict.status in (Status.FIXED, Status.IMPROVED), verdict.reason
    assert run.status == (0 if verdict.status is Status.FIXED else 1)
    assert len(verdict.seeds) == 5
    for name in ("report.html", "report.json", "plan.json", "repaired.pt"):
        assert f"results/{name}" in run.out
        assert Path("results", name).stat().st_size > 0
    jsonschema.validate(json.loads(Path("results/report.json").read_text()), schema())

    subject = load_subject(str(sick))
    plan = read_plan(Path("results/plan.json").read_text(), "plan.json")
    assert plan.prescriptions
    assert plan == report.plan
    model = apply(subject.build_model(), plan).model
    model.load_state_dict(torch.load("results/repaired.pt", weights_only=True))
    metric, value = evaluate(subject, model)
    winner = [
        trial
        for trial in verdict.trials
        if trial.matched and trial.seed == verdict.seeds[0] and trial.metric == value
    ]
    assert metric == verdict.metric
    assert winner, "no matched trial of the first seed ended with this value"
    assert winner[0].arm != "do-nothing"


def test_without_a_repair_an_old_repaired_model_is_taken_away(gradscope: Any, sick: Path) -> None:
    Path("results").mkdir()
    Path("results/repaired.pt").write_bytes(b"of an earlier run")
    run = gradscope("fix", sick, "--out", "results", "--remedy", "artificial-derivative", *QUICK)
    assert run.status == 1
    assert not Path("results/repaired.pt").exists()
    assert "repaired.pt" not in run.out
    assert gradscope(
        "fix", sick, "--out", "results", "--remedy", "artificial-derivative", "--fail-on", "never"
    ).status == 0  # fmt: skip


def test_json_goes_to_stdout_alone(gradscope: Any, sick: Path) -> None:
    run = gradscope(
        "fix", sick, "--out", "results", "--remedy", "norm-insertion", "--format", "json"
    )
    assert run.status == 1
    assert json.loads(run.out) == json.loads(Path("results/report.json").read_text())
    assert "results/plan.json" in run.err
    refusals = json.loads(run.out)["refusals"]
    assert any("--unsafe" in refusal["reason"] for refusal in refusals)


def test_random_inputs_prove_nothing(gradscope: Any, sick: Path) -> None:
    run = gradscope("fix", sick, "--out", "results", "--input-shape", "4", "--unsafe", *QUICK)
    report = read_json(Path("results/report.json").read_text(), "report.json")
    assert report.verdict is not None
    assert report.verdict.status is Status.UNVERIFIED
    assert run.status == 1
    assert not Path("results/repaired.pt").exists()


def test_a_generator_with_a_device_is_trained_over_several_passes(
    gradscope: Any, sick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("gradscope.verify"), "_rounded", lambda _: 60)
    sick.write_text(sick.read_text().replace("return [(x,", "yield from [(x,"))
    run = gradscope(
        "fix", sick, "--out", "results", "--device", "cpu", "--remedy", "optimizer-swap", *QUICK
    )
    assert run.status in (0, 1), run.err
    assert Path("results/report.json").exists()


# --- The real thing ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_finds_repairs_and_proves(examples: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [COMMAND, "demo", "--out", tmp_path / "demo"],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert run.returncode == 0, run.stderr
    report = read_json((tmp_path / "demo" / "report.json").read_text(), "report.json")
    verdict = report.verdict
    assert verdict is not None
    assert verdict.status is Status.FIXED, verdict.reason
    assert len(verdict.seeds) >= 5
    assert verdict.before is not None
    assert verdict.before <= 0.12
    assert verdict.after is not None
    assert verdict.after >= 0.70
    assert verdict.p_value is not None
    assert verdict.p_value < 0.05
    winner = report.plan.prescriptions[0].remedy if report.plan else ""
    position = 0
    said = ("GS204", "GS101", "What was tried", winner, "fixed", "p-value", "seeds", "Files")
    for part in (*said, "report.html", "report.json", "plan.json", "repaired.pt"):
        position = run.stdout.index(part, position)
