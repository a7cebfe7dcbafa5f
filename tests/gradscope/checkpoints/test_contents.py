"""Weights are found in whatever form they were saved, and nothing else is taken for weights."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import pathlib
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradscope.checkpoints import Checkpoint, open_checkpoint
from gradscope.errors import CheckpointError
from tests.gradscope.checkpoints.trained import Net, same_optimizer, same_weights, trained


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    def save_and_open(value: object) -> Checkpoint:
        torch.save(value, tmp_path / "a.pt")
        return open_checkpoint(tmp_path / "a.pt")

    return save_and_open


KEYS = ["model", "state_dict", "model_state_dict", "module", "net", "weights", "params", "ema"]


@pytest.mark.parametrize("key", [*KEYS, "anything at all"])
def test_under_any_key(opened: Any, key: str) -> None:
    net, optimizer = trained()
    checkpoint = opened(
        {"epoch": 3, "best": torch.tensor(0.5), key: net.state_dict(), "o": optimizer.state_dict()}
    )
    same_weights(checkpoint, net)
    same_optimizer(checkpoint.optimizers[0], net, optimizer)
    assert [told.what for told in checkpoint.skipped] == ["best"]


@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict", "optim", "o", "optimizers"])
def test_optimizers_under_any_key(opened: Any, key: str) -> None:
    net, optimizer = trained()
    state: Any = optimizer.state_dict()
    checkpoint = opened({"model": net.state_dict(), key: [state] if key == "optimizers" else state})
    same_optimizer(checkpoint.optimizers[0], net, optimizer)


def test_nested(opened: Any) -> None:
    net, optimizer = trained()
    saved = {"a": [{"b": {"model": net.state_dict(), "optimizer": optimizer.state_dict()}}]}
    checkpoint = opened(saved)
    same_weights(checkpoint, net)
    same_optimizer(checkpoint.optimizers[0], net, optimizer)


def test_lightning(opened: Any) -> None:
    net, optimizer = trained()
    checkpoint = opened(
        {
            "epoch": 1,
            "global_step": 40,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": {f"net.{name}": value for name, value in net.state_dict().items()},
            "loops": {"fit_loop": {"progress": torch.ones(3)}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.ones(2)}},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [{"last_epoch": 5, "_last_lr": [0.1]}],
            "hparams_name": "kwargs",
            "hyper_parameters": {"lr": 0.1, "folder": pathlib.PurePosixPath("x")},
        }
    )
    assert checkpoint.form == "Lightning checkpoint"
    assert checkpoint.step == 40
    assert all(name.startswith("net.") for name in checkpoint.weights)
    assert checkpoint.optimizers[0].matching == "all 9 by order and shape"
    assert len(checkpoint.skipped) == 2
    assert all(told.reason == "holds no weights" for told in checkpoint.skipped)


def test_what_a_lightning_module_calls_its_model_is_taken_off(opened: Any) -> None:
    net, optimizer = trained()
    state = {f"model.{name}": value for name, value in net.state_dict().items()}
    beside = {"pytorch-lightning_version": "2.4.0", "optimizer_states": [optimizer.state_dict()]}
    checkpoint = opened({**beside, "state_dict": state})
    same_weights(checkpoint, net)
    same_optimizer(checkpoint.optimizers[0], net, optimizer)
    assert [(told.what, told.reason) for told in checkpoint.skipped] == [
        ("prefix model.", "taken off the names: it is what a LightningModule puts there")
    ]
    # Not where it has more than that model, nor outside of Lightning.
    more = opened({**beside, "state_dict": {**state, "loss.weight": torch.ones(2)}})
    assert "model.out.weight" in more.weights
    assert "model.out.weight" in opened({"state_dict": state}).weights


def test_several_models(opened: Any) -> None:
    """As a GAN is saved."""
    net, optimizer = trained()
    judge = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
    second = torch.optim.Adam(judge.parameters())
    judge(torch.randn(3, 2)).sum().backward()
    second.step()
    checkpoint = opened(
        {
            "netG": net.state_dict(),
            "netD": judge.state_dict(),
            "optG": optimizer.state_dict(),
            "optD": second.state_dict(),
        }
    )
    assert checkpoint.weights.keys() == {
        *(f"netG.{name}" for name in net.state_dict() if name != "head.weight"),
        *(f"netD.{name}" for name in judge.state_dict()),
    }
    assert checkpoint.aliases == {"netG.head.weight": "netG.body.3.weight"}
    first, other = checkpoint.optimizers
    assert first.matching == "all 9 by order and shape, in 'netG'"
    assert other.state.keys() == {f"netD.{name}" for name in judge.state_dict()}


def test_layers_in_mappings_of_their_own(opened: Any) -> None:
    parts = {"encoder": {"weight": torch.ones(3, 2)}, "decoder": {"weight": torch.ones(2, 3)}}
    assert list(opened(parts).weights) == ["encoder.weight", "decoder.weight"]
    whole = opened({"scale": torch.ones(3), **parts})
    assert list(whole.weights) == ["scale", "encoder.weight", "decoder.weight"]


def test_an_average_is_the_same_model_once_more(opened: Any) -> None:
    net, _ = trained()
    average = {f"module.{name}": value + 1 for name, value in net.state_dict().items()}
    checkpoint = opened(
        {"model": net.state_dict(), "model_ema": {"n_averaged": torch.tensor(3), **average}}
    )
    same_weights(checkpoint, net)
    assert [(told.what, told.reason) for told in checkpoint.skipped] == [
        ("model_ema", "averages the weights in 'model'")
    ]
    alone = opened({"ema": net.state_dict()})
    same_weights(alone, net)


@pytest.mark.parametrize(
    ("wrap", "parts"),
    [
        ("module.{}", ["module."]),
        ("_orig_mod.{}", ["_orig_mod."]),
        ("module._orig_mod.{}", ["module.", "_orig_mod."]),
        ("_orig_mod.module.{}", ["module.", "_orig_mod."]),
        ("{}", []),
    ],
)
def test_what_wrappers_put_before_names_is_taken_off(
    opened: Any, wrap: str, parts: list[str]
) -> None:
    net, _ = trained()
    checkpoint = opened({wrap.format(name): value for name, value in net.state_dict().items()})
    same_weights(checkpoint, net)
    assert [told.what for told in checkpoint.skipped] == [f"prefix {part}" for part in parts]


def test_a_layer_that_is_called_module_stays(opened: Any) -> None:
    state = {"module.weight": torch.ones(2), "other.weight": torch.ones(2)}
    assert list(opened(state).weights) == list(state)


def test_a_layer_that_was_compiled(opened: Any) -> None:
    state = {"a._orig_mod.weight": torch.ones(2), "b.weight": torch.ones(2)}
    assert list(opened(state).weights) == ["a.weight", "b.weight"]


@pytest.mark.parametrize(
    ("beside", "step"),
    [
        ({"step": 7}, 7),
        ({"iteration": 8}, 8),
        ({"global_step": torch.tensor(9)}, 9),
        ({"epoch": 9}, None),
        ({"step": "many", "iteration": -3}, None),
        ({"step": True}, None),
    ],
)
def test_steps(opened: Any, beside: dict[str, Any], step: int | None) -> None:
    assert opened({"model": Net().state_dict(), **beside}).step == step


def test_the_optimizer_counts_steps_where_the_file_may_count_batches(opened: Any) -> None:
    net, optimizer = trained()
    saved = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
    assert opened({**saved, "iteration": 40}).step == 5
    assert opened({**saved, "global_step": 40}).step == 40


def test_what_often_lies_beside_weights_keeps_nobody_from_reading_them(opened: Any) -> None:
    numpy = pytest.importorskip("numpy")
    counts: Any = collections.defaultdict(list, {"a": [1]})
    checkpoint = opened(
        {
            "model": Net().state_dict(),
            "args": argparse.Namespace(lr=0.1, inner=argparse.Namespace(a=[1])),
            "more": types.SimpleNamespace(a=1),
            "counts": counts,
            "recent": collections.deque([1.0, 2.0], maxlen=5),
            "counter": collections.Counter("abca"),
            "when": dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),
            "took": dt.timedelta(1),
            "path": pathlib.Path("a/b"),
            "best": numpy.float64(0.5),
            "random": numpy.random.RandomState(0).get_state(),
            "python": (3, (1, 2, 3), None),
            "bytes": b"abc",
            "set": {1, 2},
            "complex": 1 + 2j,
            "version": torch.__version__,
            "size": torch.Size([1, 2]),
            "device": torch.device("cpu"),
            "dtype": torch.float32,
            "rng_state": torch.get_rng_state(),
        }
    )
    assert checkpoint.weights.keys() == Net().state_dict().keys() - {"head.weight"}
    assert [told.what for told in checkpoint.skipped] == ["rng_state"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_that_are_not_read_are_skipped_by_name(opened: Any) -> None:
    checkpoint = opened(
        {
            "a.weight": torch.ones(2, 2),
            "sparse": torch.ones(3, 3).to_sparse(),
            "meta": torch.empty(3, device="meta"),
            "complex": torch.ones(2, dtype=torch.complex64),
            "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "expanded": torch.ones(1).expand(10**12),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        }
    )
    assert list(checkpoint.weights) == ["a.weight"]
    assert {told.what: told.reason for told in checkpoint.skipped} == {
        "sparse": "is sparse (torch.sparse_coo)",
        "meta": "has no numbers",
        "complex": "is complex",
        "quantised": "is quantised (torch.qint8)",
        "expanded": "shows 1,000,000,000,000 elements of memory that holds fewer",
        "nested": "is a nested tensor",
    }


class Tagged(torch.Tensor):
    """A class of somebody's own."""


def test_tensors_with_attributes_and_parameters_are_tensors(opened: Any) -> None:
    noted = torch.arange(3.0)
    noted.note = "kept by torch.save"  # type: ignore[attr-defined]
    own = nn.Parameter(torch.ones(2))
    own.note = 1
    checkpoint = opened({"a": noted, "b": own, "c": own})
    assert list(checkpoint.weights) == ["a", "b"]
    assert checkpoint.aliases == {"c": "b"}
    assert torch.equal(checkpoint.weights["a"].load(), noted)
    with pytest.raises(CheckpointError, match=r"names '.*Tagged'"):
        opened({"a": torch.ones(2).as_subclass(Tagged)})


def test_views_and_parameters_are_read_as_they_look(opened: Any) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {"turned": base.T, "part": base[1:3, ::2], "own": nn.Parameter(base)}
    checkpoint = opened(state)
    for name, tensor in state.items():
        assert torch.equal(checkpoint.weights[name].load(), tensor)
    assert not checkpoint.aliases


def test_a_tensor_alone_and_a_list(opened: Any) -> None:
    assert list(opened(torch.ones(3)).weights) == ["tensor"]
    assert list(opened([torch.ones(3), torch.ones(2)]).weights) == ["0", "1"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({}, "holds no tensors; save the state_dict of the model"),
        ({"a": 1, "b": ["c"]}, "holds no tensors; save the state_dict of the model"),
        (
            {"a": torch.ones(2).to_sparse()},
            r"holds no tensors that can be read: 'a' is sparse \(torch\.sparse_coo\);",
        ),
    ],
)
def test_nothing_to_read(opened: Any, value: object, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        opened(value)


def test_an_optimizer_without_a_model(opened: Any) -> None:
    with pytest.raises(CheckpointError, match="holds the state of an optimizer and no weights; "):
        opened(trained()[1].state_dict())
