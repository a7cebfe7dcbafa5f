"""What a subject file says of a model: losses by outputs, inputs as code, paths as literals."""

from __future__ import annotations

import ast
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gradscope.scaffold.losses import choose
from gradscope.scaffold.made_up import Inputs
from gradscope.scaffold.spelling import called, comment, from_import, literal, place

TABLE = torch.randn(8, 20)
IMAGES = torch.randn(8, 3, 6, 6)
TOKENS = torch.randint(9, (8, 5))

Pair = namedtuple("Pair", ["hidden", "score"])


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


@pytest.mark.parametrize(
    ("output", "given", "code"),
    [
        (leaf(8, 3), TABLE, "F.cross_entropy(output, targets)"),
        (leaf(8, 3).softmax(1), TABLE, "F.nll_loss(output.log(), targets)"),
        (leaf(8, 3).log_softmax(1), TABLE, "F.nll_loss(output, targets)"),
        (leaf(8, 3).sigmoid(), TABLE, "F.binary_cross_entropy(output, targets)"),
        (leaf(8, 1), TABLE, "F.mse_loss(output, targets)"),
        (leaf(8, 1).sigmoid().squeeze(1), TABLE, "F.binary_cross_entropy(output, targets)"),
        (leaf(8), TABLE, "F.mse_loss(output, targets)"),
        (leaf(8, 20), TABLE, "F.mse_loss(output, targets)"),
        (leaf(8, 5, 9), TOKENS, "F.cross_entropy(output.flatten(0, 1), targets.flatten())"),
        (leaf(8, 3), TOKENS, "F.cross_entropy(output, targets)"),
        (leaf(8, 4, 6, 6), IMAGES, "F.cross_entropy(output, targets)"),
        (leaf(8, 1, 6, 6), IMAGES, "F.binary_cross_entropy_with_logits(output, targets)"),
        (leaf(8, 4, 3, 3), IMAGES, "F.mse_loss(output, targets)"),
        ((leaf(8, 3), leaf(8, 4)), TABLE, "F.cross_entropy(output[0], targets)"),
        (Pair(leaf(8, 3), None), TABLE, "F.cross_entropy(output[0], targets)"),
        ({"h": leaf(8), "logits": leaf(8)}, TABLE, 'F.mse_loss(output["logits"], targets)'),
        (Output(leaf(8, 4), leaf(8, 3)), TABLE, "F.cross_entropy(output.logits, targets)"),
    ],
)  # fmt: skip
def test_a_loss_is_chosen_that_can_be_computed(output: Any, given: Tensor, code: str) -> None:
    loss = choose(output, given)
    assert loss.code == code
    assert loss.targets is not None
    targets = eval(loss.targets)
    value = eval(code, {"F": F, "output": output, "targets": targets})
    assert value.ndim == 0
    value.backward()


@pytest.mark.parametrize(
    ("output", "code"),
    [
        (torch.tensor(1.0), "output"),
        ({"loss": torch.tensor(1.0), "logits": TABLE}, 'output["loss"]'),
        ((TABLE, torch.tensor(1.0)), "output[1]"),
    ],
)
def test_the_models_own_loss_is_preferred(output: Any, code: str) -> None:
    loss = choose(output, TABLE)
    assert (loss.code, loss.targets, loss.sure) == (code, None, "known")


def test_nothing_is_said_of_an_output_without_samples() -> None:
    loss = choose(["text"], TABLE)
    assert (loss.code, loss.sure) == (None, "missing")
    assert "list" in loss.why


def test_inputs_as_code_are_of_their_kind() -> None:
    class Spans(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(70, 8), nn.Embedding(16, 8)

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor
        ) -> Tensor:
            return (self.words(input_ids) + self.places(position_ids)) * attention_mask[..., None]

    inputs = Inputs(Spans().double())
    namespace: dict[str, Any] = {"torch": torch}
    exec("\n".join(inputs.lines("batch")), namespace)
    batch = namespace["batch"]
    assert batch.keys() == inputs.batch.keys()
    for name, value in inputs.batch.items():
        assert (batch[name].shape, batch[name].dtype) == (value.shape, value.dtype)
    assert 0 <= int(batch["input_ids"].min()) <= int(batch["input_ids"].max()) < 70
    assert torch.equal(batch["position_ids"], inputs.batch["position_ids"])
    assert bool((batch["attention_mask"] == 1).all())


def test_labels_that_are_the_tokens_are_copied() -> None:
    inputs = Inputs(nn.Linear(4, 2))
    ids = torch.randint(9, (3, 5))
    inputs._some = [{"input_ids": ids, "labels": ids.clone()}]
    inputs.batch = inputs._some[0]
    assert inputs.lines("batch")[-1] == 'batch["labels"] = batch["input_ids"].clone()'


def test_other_types_are_spelled() -> None:
    assert Inputs(nn.Linear(4, 2).double()).lines("x") == [
        "x = torch.randn(32, 4, dtype=torch.float64)"
    ]


HOSTILE = ("it's", 'a "b"', 'it\'s "both"', "back\\slash", "line\nbreak", "\u202e", "\udc80", "☃")


@pytest.mark.parametrize("text", HOSTILE)
def test_literals_are_what_they_spell(text: str) -> None:
    spelled = literal(text)
    assert ast.literal_eval(spelled) == text
    assert spelled.isprintable()


def test_comments_stay_comments() -> None:
    lines = comment("name\nimport os; " + "word " * 60)
    assert len(lines) > 2
    assert all(line.startswith("# ") for line in lines)


def test_paths_are_relative_within_a_project_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    parent = "Path(__file__).resolve().parent"
    output = project / "subjects" / "one.py"
    assert place("X", project / "nets", output) == f'X = {parent} / "../nets"'
    assert place("X", output.parent / "nets", output) == f'X = {parent} / "nets"'
    outside = tmp_path / "n"
    assert ast.literal_eval(place("X", outside, output).partition("Path(")[2][:-1].strip()) == str(
        outside
    )


def test_long_statements_are_broken_as_formatters_do() -> None:
    name = "x" * 50
    imported = from_import("a", [name, "y" * 40]).splitlines()
    assert imported == ["from a import (", f"    {name},", f"    {'y' * 40},", ")"]
    assert called("    return f", ["a=...", "b=..."]) == ["    return f(a=..., b=...)"]
    assert called(f"    return {name}", ["a" * 30]) == [
        f"    return {name}(",
        f"        {'a' * 30}",
        "    )",
    ]
    assert called("f", [name, name])[1] == f"    {name},"
