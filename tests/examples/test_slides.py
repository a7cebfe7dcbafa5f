"""The slides' series: every row of the table is a plan that can be carried out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gradscope.examples import slides_fashion_mnist as slides
from gradscope.examples.fashion_mnist import SAMPLE
from gradscope.patch import apply

FILE = Path(slides.__file__)


def trace(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """The losses of three steps; the weights are then as before."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(16, 1, 28, 28, generator=generator)
    labels = torch.arange(16) % 10
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.load_state_dict(weights)
    return losses


@pytest.mark.parametrize("row", slides.ROWS, ids=lambda row: row.name)
def test_a_row_changes_the_network_and_is_undone(row: slides.Row) -> None:
    torch.manual_seed(0)
    model = slides.build_model(row.layers)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    plain = trace(model, slides.build_optimizer(model.parameters()))
    patch = apply(model, slides.plan_of(row, steps=70))
    optimizer = patch.build_optimizer(model.parameters(), slides.build_optimizer)
    changed = trace(model, optimizer)
    assert (changed == plain) == (not row.acts)
    patch.undo()
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_baselines_are_the_slides() -> None:
    for row, layers in zip(slides.ROWS, (3, 5, 7), strict=False):
        widths = [
            (module.in_features, module.out_features)
            for module in slides.build_model(row.layers)
            if isinstance(module, nn.Linear)
        ]
        assert widths == [(784, 128), *[(128, 128)] * (layers - 1), (128, 10)]


def test_the_table_is_printed_and_written(tmp_path: Path) -> None:
    written = tmp_path / "slides.json"
    options = ("--epochs", "1", "--seeds", "2", "--rows", "batchnorm", "--jobs", "1")
    ran = subprocess.run(
        [sys.executable, "-W", "error", FILE, *options, "--json", written],
        capture_output=True,
        text=True,
        env=os.environ | {"GRADSCOPE_DATA": str(SAMPLE)},
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads(written.read_text())["results"]
    assert [(each["row"], each["seed"]) for each in results] == [("BatchNorm", 0), ("BatchNorm", 1)]
    # Normalised, seven sigmoid layers learn within an epoch; as they are they do not in fourteen.
    assert min(each["accuracy"] for each in results) > 0.5
    mean = sum(each["accuracy"] for each in results) / 2
    assert f"{mean:.1%}" in ran.stdout


def test_a_row_that_is_not_there_is_refused() -> None:
    ran = subprocess.run(
        [sys.executable, FILE, "--rows", "nonsense"], capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert "no row is called 'nonsense'" in ran.stderr


def test_the_readme_shows_the_run_that_is_kept() -> None:
    root = Path(__file__).parents[2]
    readme = (root / "README.md").read_text(encoding="utf-8")
    run = json.loads((root / "docs/experiments/slides-fashion-mnist.json").read_text())
    assert (run["settings"]["epochs"], run["settings"]["seeds"]) == (14, 5)
    by_row: dict[str, list[float]] = {}
    for each in run["results"]:
        by_row.setdefault(each["row"], []).append(each["accuracy"])
    assert list(by_row) == [row.name for row in slides.ROWS]
    for row, values in by_row.items():
        shown = f"| {row} | {sum(values) / 5:.1%} ± {slides.interval(values):.1%} |"
        assert shown in readme, shown
