"""The mistakes that newcomers make: each message says what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LABELS = "labels = [x[:, :3].argmax(dim=1) for x in inputs]"
DATA = f"inputs = torch.randn(40, 64, 4); {LABELS}; "
IMAGES = (
    "nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
    "nn.Linear(4, 3))"
)
DEEP = (
    "nn.Sequential(*[m for i in range(6) for m in (nn.Linear(8 if i else 4, 8), nn.Sigmoid())],"
    " nn.Linear(8, 3))"
)
PAIR = """
class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
        def forward(self, x, mask):
            return self.layer(x) * mask
    return Pair()
"""


def refused(run: Any, *words: str, status: int = 3) -> None:
    assert run.status == status, run.out + run.err
    said = run.said.splitlines()[-1]
    for word in words:
        assert word in said
    assert "Traceback" not in run.err
    assert run.out == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"build_data": f"{DATA}return list(zip(labels, inputs))"},
            ["(inputs, targets)", "wrong way round?"],
            id="integers before floats",
        ),
        pytest.param(
            {"build_data": "return [(torch.randn(8, 1), torch.randn(8, 4)) for _ in range(8)]"},
            ["A linear layer of 4 inputs was given 1", "wrong way round?"],
            id="targets before inputs",
        ),
        pytest.param(
            {"build_data": f"{DATA}return torch.cat(list(inputs)), torch.cat(labels)"},
            ["one tensor, not a pair", "a list of such pairs or a DataLoader"],
            id="all data at once",
        ),
        pytest.param(
            {
                "build_data": f"{DATA}return torch.utils.data.TensorDataset("
                "torch.cat(list(inputs)), torch.cat(labels))"
            },
            ["TensorDataset", "torch.utils.data.DataLoader(dataset, batch_size=64)"],
            id="a dataset without a loader",
        ),
        pytest.param(
            {"build_data": f"{DATA}return list(zip(inputs.double(), labels))"},
            ["float64", ".float()"],
            id="float64",
        ),
        pytest.param(
            {"build_data": f"{DATA}return list(zip((inputs * 9).byte(), labels))"},
            ["bytes", ".float() / 255"],
            id="bytes",
        ),
        pytest.param(
            {"build_data": f"{DATA}return list(zip(inputs.numpy(), labels))"},
            ["NumPy", "torch.from_numpy(x).float()"],
            id="arrays",
        ),
        pytest.param(
            {"build_data": f"{DATA}return [dict(x=x, labels=y) for x, y in zip(inputs, labels)]"},
            ["model(**batch)", "(input)", "step(model, batch)"],
            id="keys that forward does not take",
        ),
        pytest.param(
            {"build_data": f"{DATA}return [(x, y + 1) for x, y in zip(inputs, labels)]"},
            ["Classes count from 0", "labels are 0 to 2"],
            id="classes from 1",
        ),
        pytest.param(
            {"loss": "return nn.functional.cross_entropy(output, batch)"},
            ["the whole batch", "batch[1]"],
            id="loss(output, targets)",
        ),
        pytest.param(
            {"loss": "output, batch = batch, output; "
             "return nn.functional.cross_entropy(output, batch[1])"},
            ["loss(output, batch)", "output first"],
            id="loss(batch, output)",
        ),
        pytest.param(
            {"loss": "return nn.functional.cross_entropy(output, batch[1], reduction='none')"},
            ["not a scalar", ".mean()", "reduction='mean'"],
            id="a loss that is not reduced",
        ),
        pytest.param(
            {"loss": "return nn.functional.cross_entropy(output, batch[1]).item()"},
            ["is a float, not a tensor", "without .item()"],
            id="a loss cut off",
        ),
        pytest.param(
            {"loss": "return nn.functional.cross_entropy(output, batch[1].float())"},
            ["as integers", "batch[1].long()"],
            id="classes as floats",
        ),
        pytest.param(
            {
                "build_model": "return nn.Linear(4, 1)",
                "loss": "return nn.functional.binary_cross_entropy_with_logits("
                "output.squeeze(1), batch[1])",
            },
            ["compares floats", "batch[1].float()"],
            id="yes and no as integers",
        ),
        pytest.param(
            {
                "build_model": "return nn.Linear(4, 1)",
                "loss": "return nn.functional.binary_cross_entropy_with_logits("
                "output, batch[1].float())",
            },
            ["one shape", "output.squeeze(1)"],
            id="a column against a row",
        ),
        pytest.param(
            {
                "build_model": f"return {IMAGES}",
                "build_data": "return [(torch.randn(8, 9, 9, 3), torch.zeros(8).long())] * 8",
            },
            ["channels last", "x.permute(0, 3, 1, 2)"],
            id="channels last",
        ),
        pytest.param(
            {
                "build_model": "return nn.Linear(48, 3)",
                "build_data": "return [(torch.randn(8, 3, 4, 4), torch.zeros(8).long())] * 8",
            },
            ["flatten each sample", "nn.Flatten()"],
            id="not flattened",
        ),
        pytest.param(
            {"build_model": "return nn.Embedding(3, 3)",
             "build_data": "return [(torch.full((8,), 3), torch.zeros(8).long())] * 8"},
            ["embedding table", "count from 0"],
            id="a token too many",
        ),
        pytest.param(
            {"build_model": "return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))",
             "build_data": "return [(torch.randn(1, 4), torch.zeros(1).long())] * 8"},
            ["Batch normalisation needs batches of two"],
            id="a batch of one",
        ),
        pytest.param(
            {"build_model": PAIR.strip()},
            ["forward() takes x, mask", "step(model, batch)"],
            id="a model of two inputs",
        ),
        pytest.param(
            {"build_model": "return nn.ReLU"},
            ["returned the class ReLU", "return ReLU()"],
            id="a class",
        ),
        pytest.param(
            {"build_model": "return lambda width: width"},
            ["returned a function", "torch.nn.Module"],
            id="no model",
        ),
    ],
)  # fmt: skip
def test_a_subject_with_a_usual_mistake(
    gradscope: Any, write: Callable[..., Path], changes: dict[str, str], words: list[str]
) -> None:
    refused(gradscope("scan", write(**changes)), *words)


def test_a_tuple_of_outputs(gradscope: Any, write: Callable[..., Path]) -> None:
    model = "torch.nn.LSTM(4, 3, batch_first=True)"
    refused(gradscope("scan", write(model=model)), "returns a tuple", "output[0]")


def test_a_factory_with_arguments(gradscope: Any, write: Callable[..., Path]) -> None:
    path = write()
    path.write_text(path.read_text().replace("build_model()", "build_model(width, depth=2)"))
    refused(gradscope("scan", path), "needs width", "without arguments")


@pytest.mark.parametrize(
    ("made_once", "function", "words"),
    [
        (f"MODEL = {DEEP}", "build_model", ["the same Sequential twice", "inside the function"]),
        (
            "DATA = iter([(torch.randn(64, 4), torch.arange(64) % 3) for _ in range(9)])",
            "build_data",
            ["again and again", "a list or a DataLoader"],
        ),
    ],
)
def test_what_is_made_once_and_used_up(
    gradscope: Any, write: Callable[..., Path], made_once: str, function: str, words: list[str]
) -> None:
    path = write(model=DEEP, **{function: f"return {made_once.partition(' ')[0]}"})
    path.write_text(
        path.read_text().replace("from torch import nn", f"from torch import nn\n{made_once}")
    )
    refused(gradscope("fix", path, "--unsafe", "--out", "out", "--budget", "1"), *words)


def test_a_name_misspelled(gradscope: Any, healthy: Path) -> None:
    refused(gradscope("scan", "helathy.py"), "is healthy.py meant?")
    refused(gradscope("scan", "source/healthy.py"), "is healthy.py meant?")
    refused(gradscope("run", "helathy.py"), "Is healthy.py meant?", status=2)


def test_a_module_in_another_folder(gradscope: Any, healthy: Path) -> None:
    Path("src/nets").mkdir(parents=True)
    healthy.rename("src/nets/small.py")
    refused(gradscope("scan", "nets.small"), "src/nets/small.py is a file", "go to the folder src")


def test_a_file_of_a_package(gradscope: Any, healthy: Path) -> None:
    Path("nets").mkdir()
    Path("nets/__init__.py").touch()
    Path("nets/small.py").write_text("from .layers import x\n" + healthy.read_text())
    refused(gradscope("scan", "nets/small.py"), "part of a package", "give the module nets.small")


def test_a_script_that_reads_arguments(gradscope: Any, healthy: Path) -> None:
    healthy.write_text("import sys\nsys.exit('no --data given')\n" + healthy.read_text())
    refused(gradscope("scan", healthy), "line 2", "if __name__ == '__main__'")


def test_a_model_without_the_functions(gradscope: Any) -> None:
    Path("net.py").write_text("from torch import nn\n\nclass Net(nn.Linear):\n    pass\n")
    refused(gradscope("scan", "net.py"), "has the model Net", "gradscope init net.py:Net")


def test_files_of_another_kind(gradscope: Any) -> None:
    Path("train.ipynb").write_text('{"cells": []}')
    refused(gradscope("scan", "train.ipynb"), "is a notebook", "gradscope.profile()")
    Path("saved.json").write_text('{"schema_version": 1, "findings": []}')
    refused(gradscope("scan", "saved.json"), "gradscope report")
    refused(gradscope("watch", "run.gradscope"), "no run store", "gradscope run SCRIPT")
