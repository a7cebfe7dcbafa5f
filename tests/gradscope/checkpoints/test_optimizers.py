"""What optimizers of every kind remember, under the right names or under none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.checkpoints import Checkpoint, open_checkpoint
from gradscope.pipeline import scan_checkpoint
from tests.gradscope.checkpoints.trained import Net, same_optimizer, same_slots, train, trained

KINDS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD without momentum": lambda p: torch.optim.SGD(p, lr=0.1),
    "Adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p),
    "NAdam": lambda p: torch.optim.NAdam(p),
    "RAdam": lambda p: torch.optim.RAdam(p),
    "Adamax": lambda p: torch.optim.Adamax(p),
    "RMSprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p),
    "Adafactor": lambda p: torch.optim.Adafactor(p),
}
MUON = getattr(torch.optim, "Muon", None)


def saved(path: Path, net: nn.Module, *optimizers: Optimizer, **more: Any) -> Checkpoint:
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": net.state_dict(), "optimizers": states, **more}, path / "a.pt")
    return open_checkpoint(path / "a.pt")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(tmp_path: Path, kind: str) -> None:
    net, optimizer = train(lambda net: KINDS[kind](net.parameters()))
    checkpoint = saved(tmp_path, net, optimizer)
    (read,) = checkpoint.optimizers
    assert read.kind == kind.partition(" ")[0]
    assert read.matching == "all 9 by order and shape"
    same_optimizer(read, net, optimizer)
    assert checkpoint.step == (None if "SGD" in kind else 5)


@pytest.mark.skipif(MUON is None, reason="torch 2.9 and later have Muon")
def test_muon(tmp_path: Path) -> None:
    assert MUON is not None
    net, optimizer = train(
        lambda net: MUON([p for p in net.parameters() if p.ndim == 2]),
    )
    (read,) = saved(tmp_path, net, optimizer).optimizers
    assert read.kind == "Muon"
    same_optimizer(read, net, optimizer)


@pytest.mark.parametrize(
    ("given", "told"), [(None, "Adam or AdamW"), (True, "AdamW"), (False, "Adam")]
)
def test_adam_and_adamw_differ_by_a_setting_of_newer_torch(
    tmp_path: Path, given: bool | None, told: str
) -> None:
    net, optimizer = train(lambda net: torch.optim.Adam(net.parameters()))
    state = optimizer.state_dict()
    state["param_groups"][0].pop("decoupled_weight_decay", None)
    if given is not None:
        state["param_groups"][0]["decoupled_weight_decay"] = given
    torch.save({"model": net.state_dict(), "optimizer": state}, tmp_path / "a")
    assert open_checkpoint(tmp_path / "a").optimizers[0].kind == told


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda p: torch.optim.Adadelta(p), "is Adadelta, which is not read"),
        (lambda p: torch.optim.ASGD(p), "is ASGD, which is not read"),
        (lambda p: torch.optim.Rprop(p), "is Rprop, which is not read"),
    ],
)
def test_other_kinds_are_skipped_by_name(
    tmp_path: Path, build: Callable[[Any], Optimizer], told: str
) -> None:
    net, optimizer = train(lambda net: build(net.parameters()))
    checkpoint = saved(tmp_path, net, optimizer)
    assert not checkpoint.optimizers
    assert [(skipped.what, skipped.reason) for skipped in checkpoint.skipped] == [
        ("optimizers.0", told)
    ]


def test_an_unknown_optimizer_is_skipped_with_its_settings(tmp_path: Path) -> None:
    state = {
        "state": {0: {"z": torch.ones(2, 6)}},
        "param_groups": [{"lr": 1.0, "mystery": 2.0, "params": [0]}],
    }
    torch.save({"model": {"a.weight": torch.ones(2, 6)}, "opt": state}, tmp_path / "a")
    (skipped,) = open_checkpoint(tmp_path / "a").skipped
    assert skipped.what == "opt"
    assert skipped.reason == "is an optimizer that is not known (its settings are lr, mystery)"


def test_states_of_eight_bits_are_skipped_by_name(tmp_path: Path) -> None:
    net = nn.Linear(64, 64)
    slots = {
        "step": 3,
        "state1": torch.zeros(64, 64, dtype=torch.uint8),
        "state2": torch.zeros(64, 64, dtype=torch.uint8),
        "qmap1": torch.zeros(256),
        "absmax1": torch.zeros(16),
    }
    groups = torch.optim.AdamW(net.parameters()).state_dict()["param_groups"]
    state = {"state": {0: slots}, "param_groups": groups}
    torch.save({"model": net.state_dict(), "optimizer": state}, tmp_path / "a")
    checkpoint = open_checkpoint(tmp_path / "a")
    assert not checkpoint.optimizers
    told = "is an 8-bit optimizer of bitsandbytes, whose quantised state is not read"
    assert checkpoint.skipped[0].reason == told
    report = scan_checkpoint(tmp_path / "a")
    assert ("optimizer", told) in [(each.what, each.reason) for each in report.skipped]
    assert report.profile.optimizer is None


# --- Which parameter is which -----------------------------------------------------------------


def test_names_that_torch_wrote(tmp_path: Path) -> None:
    """Given names, an optimizer writes them, and their order is of no importance."""
    net, optimizer = train(
        lambda net: torch.optim.AdamW(list(reversed(list(net.named_parameters()))))
    )
    if "param_names" not in optimizer.state_dict()["param_groups"][0]:
        pytest.skip("torch 2.6 and later write names")
    (read,) = saved(tmp_path, net, optimizer).optimizers
    assert read.matching == "all 9 by the names in its groups"
    same_optimizer(read, net, optimizer)


def test_names_of_wrapped_models(tmp_path: Path) -> None:
    net, optimizer = train(lambda net: torch.optim.AdamW(net.named_parameters()))
    state = optimizer.state_dict()
    group = state["param_groups"][0]
    group["param_names"] = [f"module.{name}" for name in group["param_names"]]
    model = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"model": model, "optimizer": state}, tmp_path / "a")
    same_optimizer(open_checkpoint(tmp_path / "a").optimizers[0], net, optimizer)


@pytest.mark.parametrize("flat", [True, False])
def test_states_that_are_kept_by_name(tmp_path: Path, flat: bool) -> None:
    """As torch.distributed.checkpoint and FullyShardedDataParallel keep them."""
    net, optimizer = trained()
    names = [name for name, _ in net.named_parameters()]
    plain = optimizer.state_dict()
    (group,) = plain["param_groups"]
    state: dict[str, Any] = {
        "state": {names[index]: slots for index, slots in plain["state"].items()},
        "param_groups": [{**group, "params": names}],
    }
    if flat:
        state = {
            **{
                f"state.{n}.{k}": v for n, slots in state["state"].items() for k, v in slots.items()
            },
            **{
                f"param_groups.{name}.{key}": value
                for name in names
                for key, value in group.items()
                if key != "params"
            },
        }
    torch.save({"model": net.state_dict(), "optim": state}, tmp_path / "a")
    checkpoint = open_checkpoint(tmp_path / "a")
    (read,) = checkpoint.optimizers
    assert read.matching == "all 9 by the names under which its state is kept"
    same_optimizer(read, net, optimizer)


class Blocks(nn.Module):
    """A small transformer's shapes: layers of one kind, with norms and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"norm": nn.LayerNorm(6), "up": nn.Linear(6, 12), "down": nn.Linear(12, 6)}
            )
            for _ in range(11)
        )
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.embedding.weight.sum(0)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            x = x + layer["down"](torch.relu(layer["up"](layer["norm"](x))))
        out: torch.Tensor = self.head(x)
        return out


def split_by_decay(net: nn.Module) -> Optimizer:
    """As transformers' Trainer does: matrices first, then norms and biases."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others}])


def test_groups_by_weight_decay(tmp_path: Path) -> None:
    net, optimizer = train(split_by_decay, Blocks())
    (read,) = saved(tmp_path, net, optimizer).optimizers
    assert read.matching == "all 69 by order and shape"
    same_optimizer(read, net, optimizer)
    assert read.settings["layers.10.up.weight"]["weight_decay"] == 0.1
    assert read.settings["layers.10.up.bias"]["weight_decay"] == 0.01


def test_where_a_file_is_sorted_by_name_layers_are_told_by_number(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    net, optimizer = train(split_by_decay, Blocks())
    safetensors.save_file(net.state_dict(), tmp_path / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")
    (read,) = open_checkpoint(tmp_path).optimizers
    assert read.matching == "all 69 by shape and the modules' names"
    same_optimizer(read, net, optimizer)


def test_where_a_file_is_sorted_and_parameters_are_frozen_numbers_tell(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")

    def without_embedding(net: nn.Module) -> Optimizer:
        return torch.optim.AdamW([p for n, p in net.named_parameters() if "embedding" not in n])

    net, optimizer = train(without_embedding, Blocks())
    safetensors.save_file(net.state_dict(), tmp_path / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")
    (read,) = open_checkpoint(tmp_path).optimizers
    matrices = {name for name, p in net.named_parameters() if p.ndim > 1} - {"embedding.weight"}
    biases = {name for name, p in net.named_parameters() if p.shape in ((12,), (2,))}
    assert read.state.keys() == matrices | biases
    assert read.matching.startswith("35 of 68 by shape and number")
    live = {name: optimizer.state[parameter] for name, parameter in net.named_parameters()}
    for name, slots in read.state.items():
        same_slots(slots, live[name])
    reasons = {each.what: each.reason for each in scan_checkpoint(tmp_path).skipped}
    assert reasons["part of AdamW's state"].startswith("its parameters are known for 35 of 68")


def test_layers_that_could_be_swapped_are_left_out_where_a_file_is_sorted(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    parts = {"query": (6, 6), "key": (6, 6), "out": (6, 4)}
    net = nn.ModuleDict({name: nn.Linear(*shape) for name, shape in parts.items()})
    optimizer = torch.optim.AdamW(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    safetensors.save_file(net.state_dict(), tmp_path / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")
    (read,) = open_checkpoint(tmp_path).optimizers
    assert read.state.keys() == {"out.weight", "out.bias"}
    same_slots(read.state["out.bias"], optimizer.state[net.get_parameter("out.bias")])


def test_optimizers_without_end_are_not_read(tmp_path: Path) -> None:
    """A list that many share takes no room in the file."""
    net, optimizer = train(lambda net: torch.optim.AdamW(net.parameters()))
    state = optimizer.state_dict()
    shared = [dict(state) for _ in range(1000)]
    torch.save({"model": net.state_dict(), "optimizers": shared}, tmp_path / "a")
    checkpoint = open_checkpoint(tmp_path / "a")
    assert 1 < len(checkpoint.optimizers) < 20
    assert checkpoint.skipped[0].reason == "is one of more optimizers than there are weights"


def test_frozen_parameters_are_missing(tmp_path: Path) -> None:
    net, optimizer = train(lambda net: torch.optim.AdamW(list(net.parameters())[-5:]))
    (read,) = saved(tmp_path, net, optimizer).optimizers
    assert read.matching == "all 5 by order and shape"
    same_slots(read.state["head.bias"], optimizer.state[net.get_parameter("head.bias")])


def test_what_could_be_several_parameters_is_left_out(tmp_path: Path) -> None:
    """The norm's two vectors look like the biases before and behind them."""
    net, optimizer = train(
        lambda net: torch.optim.AdamW([*net.get_submodule("body.1").parameters(), *last(net)])
    )
    (read,) = saved(tmp_path, net, optimizer).optimizers
    assert read.matching == "2 of 4 by order and shape; the others could be several parameters"
    assert read.state.keys() == {"out.weight", "out.bias"}
    same_slots(read.state["out.bias"], optimizer.state[net.get_parameter("out.bias")])


def last(net: nn.Module) -> list[nn.Parameter]:
    return list(net.get_submodule("out").parameters())


def test_parameters_that_never_made_a_step_have_settings_alone(tmp_path: Path) -> None:
    net = Net()
    unused = nn.Linear(3, 3)
    net.add_module("unused", unused)
    net, optimizer = train(lambda net: torch.optim.AdamW(net.parameters(), lr=0.5), net)
    (read,) = saved(tmp_path, net, optimizer).optimizers
    same_optimizer(read, net, optimizer)
    assert "unused.weight" not in read.state
    assert read.settings["unused.weight"]["lr"] == 0.5


def test_an_order_that_is_not_the_models_is_told_by_rare_shapes(tmp_path: Path) -> None:
    net, optimizer = train(lambda net: torch.optim.AdamW(list(net.parameters())[::-1]))
    (read,) = saved(tmp_path, net, optimizer).optimizers
    assert read.matching == (
        "4 of 9 by a shape that only one parameter has; the others could be several parameters"
    )
    assert read.state.keys() == {"body.0.weight", "body.3.weight", "out.weight", "out.bias"}
    live = {name: optimizer.state[parameter] for name, parameter in net.named_parameters()}
    for name, slots in read.state.items():
        same_slots(slots, live[name])


def test_two_groups_that_could_be_swapped_are_left_out(tmp_path: Path) -> None:
    """Head and backbone have the same shapes, and the head was given first."""
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    net, optimizer = train(
        lambda net: torch.optim.AdamW(
            [{"params": net[1].parameters()}, {"params": net[0].parameters(), "lr": 1e-5}]  # type: ignore[index]
        ),
        net,
    )
    (read,) = saved(tmp_path, net, optimizer).optimizers
    assert read.matching == "0 of 4 by order and shape; the others could be several parameters"
    assert not read.state


def test_models_that_could_be_swapped_are_left_out(tmp_path: Path) -> None:
    net, optimizer = train(lambda net: torch.optim.AdamW(net.parameters()))
    torch.save(
        {"a": net.state_dict(), "b": Net().state_dict(), "opt": optimizer.state_dict()},
        tmp_path / "x",
    )
    (read,) = open_checkpoint(tmp_path / "x").optimizers
    assert read.matching == "none of 9: it could belong to each of 'a', 'b'"
    assert not read.state


def test_an_optimizer_of_another_model(tmp_path: Path) -> None:
    _, optimizer = trained()
    checkpoint = saved(tmp_path, nn.Linear(3, 4), optimizer)
    assert checkpoint.optimizers[0].matching.startswith("0 of 9 by a shape")
    assert not checkpoint.optimizers[0].settings
