"""``gradscope scan`` of several checkpoints and of folders of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

from gradscope.examples import train_checkpoint
from gradscope.reports import read_json


def save(path: Path, *, dead: float, step: int) -> Path:
    """A network of two layers after a step of Adam's, some units of which got no gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 40), nn.Linear(40, 3))
        nn.init.constant_(model[0].bias[: int(dead * 40)], -99)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.randn(64, 8)).square().mean().backward()
        optimizer.step()
    kept = optimizer.state_dict()
    for state in kept["state"].values():
        state["step"] = torch.tensor(float(step))
    path.parent.mkdir(exist_ok=True)
    torch.save({"model": model.state_dict(), "optimizer": kept}, path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Units die between the second and the third."""
    for number, dead in enumerate((0.0, 0.1, 0.8, 0.8)):
        save(tmp_path / "run" / f"{number}.pt", dead=dead, step=500 * (number + 1))
    return tmp_path / "run"


def test_a_folder_of_checkpoints_is_a_run(gradscope: Any, run: Path) -> None:
    told = gradscope("scan", "run")
    assert told.status == 1
    assert max(map(len, told.out.splitlines())) <= 80
    assert "4 checkpoints of one run" in told.out
    assert "What was found is of the newest, 3.pt." in told.out
    assert "Since step 1,500, in 2 of 4 checkpoints" in " ".join(told.out.split())
    (line,) = [
        line for line in told.out.splitlines() if line.startswith(("  ✗ GS201", "  ▲ GS201"))
    ]
    said = ["GS201", "dead-relu", "step", "1,500", "now", "2", "of", "4", "··━━"]
    assert line.split()[1:] == said
    assert "reading 4 checkpoints" in told.err
    page = gradscope("scan", "run", "--format", "html").out
    assert "Over training" in page
    assert page.count("<svg") >= 2


def test_its_report_follows_the_schema_and_is_read_back(gradscope: Any, run: Path) -> None:
    written = gradscope("scan", "run", "--format", "json").out
    schema = json.loads(gradscope("schema").out)
    jsonschema.Draft202012Validator(schema).validate(json.loads(written))
    report = read_json(written, "report.json")
    assert report.profile is not None
    assert [each.step for each in report.profile.trajectory] == [500, 1000, 1500, 2000]
    assert report.target.name == "run"


def test_several_checkpoints_are_a_run_whose_newest_decides(gradscope: Any, run: Path) -> None:
    files = [run / f"{number}.pt" for number in range(4)]
    assert gradscope("scan", *files[:2]).status == 0
    assert gradscope("scan", *reversed(files)).status == 1
    assert gradscope("scan", *files, "--fail-on", "never").status == 0
    assert gradscope("scan", *files, "--ignore", "GS201").status == 0
    save(files[1], dead=0.0, step=9000)
    told = gradscope("scan", *files)
    assert told.status == 0
    (line,) = [
        line for line in told.out.splitlines() if line.startswith(("  ✗ GS201", "  ▲ GS201"))
    ]
    assert "step 1,500  step 2,000  2 of 4  ·━━·" in line


def test_one_checkpoint_in_a_folder_is_that_one(gradscope: Any, run: Path) -> None:
    for number in range(3):
        (run / f"{number}.pt").unlink()
    told = gradscope("scan", "run", "--format", "json")
    assert told.status == 1
    assert json.loads(told.out)["profile"]["trajectory"] == []


def test_only_checkpoints_can_be_given_together(gradscope: Any, run: Path, healthy: Path) -> None:
    told = gradscope("scan", run / "0.pt", healthy)
    assert told.status == 2
    assert told.said.endswith("only checkpoints can be given together; give it by itself.")
    told = gradscope("scan", run / "0.pt", "typo.pt")
    assert (told.status, told.out) == (3, "")
    assert told.said == "gradscope: typo.pt does not exist; give the path of a checkpoint."


def test_a_run_is_read_and_not_run(gradscope: Any, run: Path) -> None:
    told = gradscope("scan", "run", "--input-shape", "8")
    assert told.status == 2
    assert told.said.startswith("gradscope: --input-shape needs a model to run")


def test_what_cannot_be_read_does_not_pass_a_gate(gradscope: Any, run: Path) -> None:
    (run / "1.pt").write_bytes((run / "1.pt").read_bytes()[:-500])
    told = gradscope("scan", "run", "--ignore", "GS201", "--format", "json")
    assert told.status == 3
    assert told.said.startswith("gradscope: 1.pt was skipped: run/1.pt is ")
    report = json.loads(told.out)
    assert [skip["what"] for skip in report["skipped"]][-1] == "1.pt"
    shutil.copy(run / "1.pt", run / "9.pt")
    for number in (0, 2, 3):
        (run / f"{number}.pt").unlink()
    told = gradscope("scan", "run")
    assert (told.status, told.out) == (3, "")
    assert told.said.endswith("None of 2 checkpoints could be read.")


def test_the_checkpoints_of_a_trainer_beside_its_model(gradscope: Any, run: Path) -> None:
    """The folder of a Hugging Face model is that model; its checkpoints are named one by one."""
    (run / "config.json").write_text("{}")
    folders = [run / "checkpoint-500", run / "checkpoint-1000"]
    for folder, number in zip(folders, (0, 3), strict=True):
        folder.mkdir()
        shutil.move(run / f"{number}.pt", folder / "pytorch_model.bin")
        (folder / "config.json").write_text("{}")
    told = gradscope("scan", *folders)
    assert told.status == 1
    assert "2 checkpoints of one run" in told.out


def test_the_example_saves_a_run(gradscope: Any, tmp_path: Path) -> None:
    train_checkpoint.save(tmp_path / "run", steps=60, every=20)
    report = json.loads(gradscope("scan", "run", "--format", "json").out)
    assert [each["step"] for each in report["profile"]["trajectory"]] == [20, 40, 60]
    messages = {finding["code"]: finding["message"] for finding in report["findings"]}
    assert messages["GS101"].endswith("Since step 20, in all 3 checkpoints.")
