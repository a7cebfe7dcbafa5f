"""``gradscope compare``: reports against checkpoints, exit status, formats, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

DEPTH = 8
WIDTH = 16
STEPS = 30


def save(path: Path, activation: type[nn.Module], prefix: str = "") -> Path:
    """A short real training, saved as scripts do; sigmoids let the gradient vanish."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential()
        for _ in range(DEPTH):
            linear = nn.Linear(WIDTH, WIDTH)
            if activation is nn.ReLU:
                nn.init.kaiming_normal_(linear.weight)
            model.append(linear).append(activation())
        model.append(nn.Linear(WIDTH, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        inputs = torch.randn(256, WIDTH)
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), inputs[:, :4].argmax(dim=1)).backward()
            optimizer.step()
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "step": STEPS}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder / "relu.pt", nn.ReLU)
    save(folder / "sigmoid.pt", nn.Sigmoid)
    save(folder / "other.pt", nn.Sigmoid, "encoder.\x1b[31m")
    return folder


def test_a_checkpoint_is_the_same_as_itself(gradscope: Any, folder: Path) -> None:
    run = gradscope("compare", folder / "sigmoid.pt", folder / "sigmoid.pt")
    assert run.status == 0
    assert "= no worse" in run.out
    assert "The same numbers in both, at 9 layers." in run.out
    assert run.said == ""
    assert "reading" in run.err


def test_a_worse_checkpoint_exits_1_and_the_better_one_0(gradscope: Any, folder: Path) -> None:
    worse = gradscope("compare", folder / "relu.pt", folder / "sigmoid.pt")
    assert worse.status == 1
    assert "✗ B is worse" in worse.out
    assert "✗ new GS101 vanishing-gradient – – error" in " ".join(worse.out.split())
    assert max(map(len, worse.out.splitlines())) <= 80
    better = gradscope("compare", folder / "sigmoid.pt", folder / "relu.pt")
    assert better.status == 0
    assert "✓ B is better" in better.out
    assert "✓ gone GS101 vanishing-gradient error" in " ".join(better.out.split())


def test_a_saved_report_is_its_checkpoint(gradscope: Any, folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "sigmoid.json"
    gradscope("scan", folder / "sigmoid.pt", "--format", "json", "--output", report)
    run = gradscope("compare", report, folder / "sigmoid.pt", "--format", "json")
    compared = json.loads(run.out)
    assert run.status == 0
    assert {pair["standing"] for pair in compared["findings"]} == {"same"}
    assert [place["a"] for place in compared["picture"]["places"]] == [
        place["b"] for place in compared["picture"]["places"]
    ]
    assert (compared["a"]["name"], compared["a"]["target"]) == (
        str(report),
        str(folder / "sigmoid.pt"),
    )
    assert (compared["b"]["steps"], compared["b"]["optimizer"]) == (STEPS, "SGD")


def test_a_measured_report_against_a_checkpoint(
    gradscope: Any, folder: Path, sick: Path, tmp_path: Path
) -> None:
    report = tmp_path / "sick.json"
    gradscope("scan", sick, "--format", "json", "--output", report)
    run = gradscope("compare", report, folder / "relu.pt")
    assert run.status == 0
    assert "B was read from a checkpoint and A was measured" in run.out
    assert gradscope("compare", folder / "relu.pt", report).status == 1


def test_only_selected_rules_are_compared(gradscope: Any, folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "sigmoid.json"
    gradscope("scan", folder / "sigmoid.pt", "--format", "json", "--output", report)
    run = gradscope("compare", folder / "relu.pt", report, "--ignore", "GS101", "--format", "json")
    compared = json.loads(run.out)
    assert "GS101" not in [pair["code"] for pair in compared["findings"]]
    assert "GS101" in compared["left_out"]
    run = gradscope("compare", folder / "relu.pt", report, "--select", "GS101")
    assert run.status == 1
    run = gradscope("compare", folder / "relu.pt", report, "--select", "GS999")
    assert run.status == 2


def test_a_finding_of_a_rule_that_is_not_installed_is_kept(
    gradscope: Any, folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "sigmoid.json"
    gradscope("scan", folder / "sigmoid.pt", "--format", "json", "--output", report)
    report.write_text(report.read_text().replace('"GS101"', '"ACME7"'))
    run = gradscope("compare", folder / "relu.pt", report, "--format", "json")
    assert "ACME7" in [pair["code"] for pair in json.loads(run.out)["findings"]]
    assert run.status == 1


def test_names_from_files_are_escaped(gradscope: Any, folder: Path, tmp_path: Path) -> None:
    run = gradscope("compare", folder / "sigmoid.pt", folder / "other.pt")
    assert "different models" in run.out
    assert "encoder.\\x1b[31m0.weight" in run.out
    assert "\x1b" not in run.out
    page = tmp_path / "page.html"
    both = folder / "relu.pt", folder / "sigmoid.pt"
    gradscope("compare", *both, "--format", "html", "--output", page)
    assert "<svg" in page.read_text()
    assert "B is worse" in page.read_text()


@pytest.mark.parametrize("broken", ["missing.pt", "missing.json", "cut.pt", "cut.json", "none.bin"])
def test_what_cannot_be_loaded_exits_3_with_one_sentence(
    gradscope: Any, folder: Path, tmp_path: Path, broken: str
) -> None:
    path = tmp_path / broken
    if broken == "cut.pt":
        path.write_bytes((folder / "relu.pt").read_bytes()[:3000])
    elif broken == "cut.json":
        path.write_text('{"schema_version": 1, "findings": [')
    elif broken == "none.bin":
        path.write_bytes(b"\x07" * 500)
    for order in ((path, folder / "relu.pt"), (folder / "relu.pt", path)):
        run = gradscope("compare", *order, "--output", tmp_path / "out.txt")
        assert (run.status, run.out) == (3, "")
        assert run.said.startswith(f"gradscope: {path} ")
        assert "Traceback" not in run.err
        assert not (tmp_path / "out.txt").exists()


def test_what_cannot_be_meant_exits_2(gradscope: Any, folder: Path, sick: Path) -> None:
    run = gradscope("compare", sick, folder / "relu.pt")
    assert run.status == 2
    assert f"gradscope scan {sick} --format json" in run.said
    assert gradscope("compare", folder / "relu.pt").status == 2
    run = gradscope("compare", "a.json", "b.json", "--trust-pickle")
    assert (run.status, run.out) == (2, "")
    assert "--trust-pickle" in run.said
