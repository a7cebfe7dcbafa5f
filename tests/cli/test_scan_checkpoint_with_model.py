"""``gradscope scan`` and ``fix`` of a checkpoint together with the code of its model."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradscope import load_subject
from gradscope.metric import evaluate

ONLY = "--select=GS1,GS2"


def stack(width: int = 8) -> nn.Sequential:
    layers = [
        part
        for index in range(6)
        for part in (nn.Linear(width if index else 4, width), nn.Sigmoid())
    ]
    return nn.Sequential(*layers, nn.Linear(width, 3))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    model = stack()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 4)), torch.arange(16) % 3).backward()
        optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}
    torch.save(state, tmp_path / "trained.pt")
    return tmp_path / "trained.pt"


def report_of(gradscope: Any, *arguments: str | Path) -> Any:
    run = gradscope("scan", *arguments, "--format", "json")
    assert run.status in (0, 1), run.err
    return json.loads(run.out)


def refused(run: Any, status: int, *named: str) -> None:
    assert run.status == status, run.err
    assert len(run.said.splitlines()) == 1, run.err
    for word in named:
        assert word in run.said


def test_the_trained_weights_are_profiled_on_the_data_of_the_subject(
    gradscope: Any, checkpoint: Path, sick: Path
) -> None:
    report = report_of(gradscope, checkpoint, "--model", sick)
    target = report["target"]
    assert (target["name"], target["kind"]) == (
        str(checkpoint),
        f"torch.save file in {sick}:build_model",
    )
    profile = report["profile"]
    assert (profile["source"], profile["batch_size"], profile["stored"]) == ("measured", 64, None)
    weights = torch.load(checkpoint, weights_only=True)["model"]
    norms = {each["name"]: each["weight_norm"] for each in profile["parameters"]}
    assert norms == {
        name: pytest.approx(float(value.norm()), rel=1e-5) for name, value in weights.items()
    }
    assert "GS101" in {finding["code"] for finding in report["findings"]}
    seeds = [
        report_of(gradscope, checkpoint, "--model", sick, "--steps", "2", "--seed", seed)
        for seed in ("1", "2")
    ]
    assert seeds[0]["profile"]["losses"] == seeds[1]["profile"]["losses"]


def test_without_data_the_checkpoint_tells_too(
    gradscope: Any, checkpoint: Path, tmp_path: Path
) -> None:
    code = "from tests.cli.test_scan_checkpoint_with_model import stack\n"
    (tmp_path / "code.py").write_text(code)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    report = report_of(gradscope, checkpoint, "--model", "code.py:stack", ONLY)
    assert report["target"]["kind"] == "torch.save file in code.py:stack"
    assert report["profile"]["source"] == "synthetic"
    assert report["profile"]["stored"]["step"] == 3
    run = gradscope("scan", checkpoint, "--model", "code.py:stack", ONLY)
    for words in ("on made-up inputs", "Read 14 tensors and what Adam", "Signal over depth"):
        assert words in " ".join(run.out.split())
    assert "Layer by layer" in run.out
    # The command alone is not broken, so that it can be copied.
    assert max(len(line) for line in run.out.splitlines() if "gradscope scan" not in line) <= 80


@pytest.mark.parametrize("option", ["--data", "--loss", "--input-shape", "--device"])
def test_options_of_a_run_need_the_model(gradscope: Any, checkpoint: Path, option: str) -> None:
    run = gradscope("scan", checkpoint, option, "cpu")
    refused(run, 2, f"{option} needs a model to run", "--model FILE.py:NAME")


def test_what_does_not_fit(gradscope: Any, checkpoint: Path, write: Any) -> None:
    # The layers of the healthy subject are others.
    run = gradscope("scan", checkpoint, "--model", write())
    refused(run, 3, f"{checkpoint} does not fit", "are not in the model: '4.weight' (nearest: '")
    wider = write("wider.py", "nn.Sequential(nn.Linear(4, 9))")
    torch.save(nn.Sequential(nn.Linear(4, 8)).state_dict(), "narrow.pt")
    run = gradscope("scan", "narrow.pt", "--model", wider)
    refused(run, 3, "'0.weight' has shape 8x4 in it and 9x4 in the model (and 1 more differ)")


def test_what_is_missing_or_damaged(gradscope: Any, checkpoint: Path, sick: Path) -> None:
    refused(gradscope("scan", "none.pt", "--model", sick), 3, "none.pt does not exist")
    refused(gradscope("scan", checkpoint, "--model", "none.py"), 3, "none.py does not exist")
    checkpoint.write_bytes(checkpoint.read_bytes()[:300])
    refused(gradscope("scan", checkpoint, "--model", sick), 3, str(checkpoint))


def test_nothing_in_it_is_run(gradscope: Any, tmp_path: Path, sick: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"model": stack().state_dict(), "code": Runs()}, "hostile.pt")
    gradscope("scan", "hostile.pt", "--model", sick)
    assert not (tmp_path / "ran").exists()


# --- fix ------------------------------------------------------------------------------------------


def test_a_repair_starts_from_the_trained_weights(
    gradscope: Any, checkpoint: Path, sick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("gradscope.verify"), "_rounded", lambda _: 10)
    still = (
        "\n\ndef build_optimizer(parameters):\n    return torch.optim.SGD(parameters, lr=1e-30)\n"
    )
    sick.write_text(sick.read_text().replace("randn(40,", "randn(4,") + still)
    run = gradscope(
        *("fix", checkpoint, "--model", sick, "--out", "out", "--budget", "2", "--seeds", "5"),
        *("--select=GS204", "--unsafe", "--remedy", "norm-insertion", "--steps", "2"),
    )
    assert run.status in (0, 1), run.err
    report = json.loads(Path("out/report.json").read_text())
    assert report["target"]["name"] == str(checkpoint)
    nothing = [
        trial["metric"]
        for trial in report["verdict"]["trials"]
        if trial["matched"] and trial["arm"] == "do-nothing"
    ]
    # Training leaves the weights as they are, and they are those of the checkpoint at every seed.
    model = stack()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    metric, value = evaluate(load_subject(str(sick)), model)
    assert metric == report["verdict"]["metric"]
    assert nothing == [pytest.approx(value, rel=1e-6)] * 5


def test_a_checkpoint_alone_cannot_be_repaired(gradscope: Any, checkpoint: Path) -> None:
    run = gradscope("fix", checkpoint, "--out", "out")
    refused(run, 2, f"{checkpoint} is a checkpoint", "--model FILE.py:NAME")
    assert not Path("out").exists()


# --- Programs and folders -------------------------------------------------------------------------


def test_a_program_is_read_and_with_itself_as_the_model_run(gradscope: Any, tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        torch.export.save(torch.export.export(model, (torch.randn(6, 4),)), path)
    trained = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    torch.save(trained, "trained.pt")
    cold = report_of(gradscope, path)
    assert (cold["profile"]["sites"], cold["target"]["kind"]) == ([], "exported program")
    refused(gradscope("scan", path, "--model", path), 3, "brings its graph", "--trust-pickle")
    warm = report_of(gradscope, path, "--model", path, "--trust-pickle")
    names = [site["name"] for site in warm["profile"]["sites"]]
    assert names == ["0::linear@0", "1::relu@0", "2::linear@0"]
    assert "data" in {each["what"] for each in warm["skipped"]}
    other = report_of(gradscope, "trained.pt", "--model", path, "--trust-pickle")
    assert other["target"]["kind"] == f"torch.save file in the graph of {path}"
    assert [each["weight_norm"] for each in other["profile"]["parameters"]] == [
        pytest.approx(value.numel() ** 0.5) for value in trained.values()
    ]
    run = gradscope("scan", path, "--model", path, "--trust-pickle", "--data", "missing.py")
    refused(run, 3, "missing.py does not exist")


def folder(path: Path, **changes: Any) -> Path:
    from tests.gradscope.tiny_transformers import BERT, build

    model = build("BertForSequenceClassification", BERT)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(path)
    config = path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return path


def test_a_folder_is_run_in_the_model_of_its_config(gradscope: Any, tmp_path: Path) -> None:
    path = folder(tmp_path / "bert")
    weights = path / "model.safetensors"
    report = report_of(gradscope, weights, "--model", path, "--steps", "1", ONLY)
    assert report["target"]["name"] == str(weights)
    assert report["target"]["kind"] == f"safetensors file in the model of {path / 'config.json'}"
    assert report["profile"]["sites"]
    assert report["profile"]["stored"] is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["MyBert"]}, "has no MyBert"),
        ({"model_type": "of-my-own", "auto_map": {"AutoModel": "mine.Model"}}, "of-my-own"),
        (None, "transformers cannot be imported"),
    ],
)
def test_a_folder_whose_model_cannot_be_built_is_read(
    gradscope: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any, reason: str
) -> None:
    path = folder(tmp_path / "bert", **(changes or {}))
    if changes is None:
        monkeypatch.setitem(sys.modules, "transformers", None)
    report = report_of(gradscope, path)
    assert (report["profile"]["sites"], report["target"]["kind"]) == ([], "Hugging Face folder")
    assert report["skipped"][0]["what"] == "the run"
    assert reason in report["skipped"][0]["reason"]
    # Who asks for a run is told why there is none.
    assert gradscope("scan", path, "--input-shape", "3").status == 3
    assert gradscope("fix", path, "--out", "out").status == 3
    (path / "model.safetensors").unlink()
    assert gradscope("scan", path).status == 3
    (path / "config.json").write_text("{")
    assert gradscope("scan", path).status == 3
