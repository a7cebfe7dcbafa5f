"""Every example runs as a script and is a subject that gradscope can load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradscope.examples.fashion_mnist import SAMPLE
from gradscope.loading import load_subject

FOLDER = Path(__file__).parents[2] / "examples"

NOT_SUBJECTS = {
    *("__init__", "fashion_mnist", "make_fashion_mnist_sample", "training"),
    "train_checkpoint",  # see test_train_checkpoint.py
}

EXPERIMENTS = {
    "bias_meter",
    "derivative_search",
    "paper_alexnet",
    "paper_relu_approximation",
    "paper_sigmoid_comparison",
    "slides_fashion_mnist",
}
"""They print a table of many trainings, and have tests of their own."""

EXAMPLES = sorted(
    path for path in FOLDER.glob("*.py") if path.stem not in NOT_SUBJECTS | EXPERIMENTS
)


def identify(path: Path) -> str:
    return path.stem


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", path, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"GRADSCOPE_DATA": str(SAMPLE), "OMP_NUM_THREADS": "1"},
    )


def test_the_four_examples_are_there() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "deep_sigmoid_mlp",
        "dying_relu",
        "healthy_cnn",
        "healthy_mlp",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=identify)
def test_an_example_runs_as_a_script(path: Path) -> None:
    ran = run(path, "--epochs", "1", "--seed", "3")
    assert ran.stderr == ""
    assert ran.returncode == 0
    line = re.fullmatch(r"epoch 1: training loss (\d+\.\d+), test (\w+) (\d+\.\d+)\n", ran.stdout)
    assert line is not None, ran.stdout
    if "healthy" in path.stem:
        assert float(line[3]) > 0.5, "a healthy network learns within an epoch"


@pytest.mark.parametrize("path", EXAMPLES, ids=identify)
def test_an_example_is_a_subject(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSCOPE_DATA", str(SAMPLE))
    monkeypatch.setattr(sys, "path", list(sys.path))
    subject = load_subject(str(path))
    assert subject.build_data is not None
    assert subject.build_optimizer is not None
    assert subject.evaluate is not None
    model = subject.build_model()
    batch = next(iter(subject.build_data()))
    loss = subject.step(model, batch)
    assert loss.shape == torch.Size([])
    ((name, value),) = subject.evaluate(model).items()
    assert name.startswith("test ")
    assert value >= 0


@pytest.mark.parametrize("path", EXAMPLES, ids=identify)
def test_an_example_says_how_to_run_it(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split('"""')[1]
    assert re.search(rf"gradscope (scan|fix) examples/{path.name}", head)


def test_missing_data_is_one_sentence(tmp_path: Path) -> None:
    ran = run(FOLDER / "healthy_mlp.py", "--epochs", "1", "--data-dir", str(tmp_path))
    assert ran.returncode != 0
    assert "train-images-idx3-ubyte.gz: No such file" in ran.stderr.splitlines()[-1]
