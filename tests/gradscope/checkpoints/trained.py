"""One small real training, whose parts the tests save in every form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.checkpoints import Checkpoint, OptimizerState, StoredTensor, open_checkpoint


class Net(nn.Module):
    """An MLP with BatchNorm, whose last layer shares the weight of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU()
        )
        self.head = nn.Linear(9, 9)
        self.head.weight = self.body[3].weight
        self.out = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.head(self.body(x)))


def train(
    build: Callable[[nn.Module], Optimizer], net: nn.Module | None = None, steps: int = 5
) -> tuple[nn.Module, Optimizer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net() if net is None else net
        optimizer = build(net)
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.randn(16, 6)).square().mean().backward()
            optimizer.step()
    return net, optimizer


@cache
def trained() -> tuple[nn.Module, Optimizer]:
    """By AdamW, five steps; nobody changes it."""
    return train(lambda net: torch.optim.AdamW(net.parameters(), lr=0.01))


def saved_by(net: nn.Module, optimizer: Optimizer) -> Checkpoint:
    """What torch.save and reading it back make of both."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, path)
        return open_checkpoint(path)


def whole() -> dict[str, Any]:
    """A copy of all of it: what state_dict() returns is the optimizer's own."""
    net, optimizer = trained()
    return deepcopy({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1})


def same_weights(checkpoint: Checkpoint, net: nn.Module) -> None:
    """Everything of the module is in it, bit by bit."""
    state = net.state_dict()
    assert {*checkpoint.weights, *checkpoint.aliases} == set(state)
    for name, tensor in state.items():
        stored = checkpoint.weights[checkpoint.aliases.get(name, name)]
        loaded = stored.load()
        assert (stored.shape, stored.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert (loaded.shape, loaded.dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(loaded, tensor), name


def same_optimizer(read: OptimizerState, net: nn.Module, optimizer: Optimizer) -> None:
    """All that it keeps is in it under the right names, bit by bit."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    live = {names[id(parameter)]: slots for parameter, slots in optimizer.state.items()}
    assert read.state.keys() == live.keys()
    for name, slots in live.items():
        same_slots(read.state[name], {k: v for k, v in slots.items() if v is not None})
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            told = read.settings[names[id(parameter)]]
            assert told["lr"] == group["lr"]
            assert told.keys() == group.keys() - {"params", "param_names"}


def same_slots(
    read: Mapping[str, StoredTensor | float], live: Mapping[str, Tensor | float]
) -> None:
    assert read.keys() == live.keys()
    for slot, value in live.items():
        kept = read[slot]
        if isinstance(kept, StoredTensor):
            assert torch.equal(kept.load(), torch.as_tensor(value)), slot
        else:
            assert kept == float(value), slot
