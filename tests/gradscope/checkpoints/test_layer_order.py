"""GS101 in checkpoints whose layers are not known to be in order, and in ones of odd layers."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradscope.checkpoints import open_checkpoint
from gradscope.checkpoints.cold import read_stored
from gradscope.pipeline import scan_checkpoint
from gradscope.records import Finding, Measure, Severity, Skipped, Source
from gradscope.rules.vanishing_gradient import VanishingGradient
from gradscope.stored import LayerOrder, Stored
from tests.gradscope.checkpoints.trained import saved_by
from tests.gradscope.rules.making import profile

RULE = VanishingGradient()
KINDS = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), lr=1e-3),
}


def perceptron(activation: type[nn.Module], layers: int = 9, norm: bool = False) -> nn.Sequential:
    found: list[nn.Module] = []
    for _ in range(layers):
        found += [nn.Linear(16, 16), *([nn.BatchNorm1d(16)] if norm else []), activation()]
        if activation is nn.ReLU:
            nn.init.kaiming_normal_(found[-2].weight if not norm else found[-3].weight)  # type: ignore[arg-type]
    return nn.Sequential(*found, nn.Linear(16, 4))


@cache
def stored(activation: type[nn.Module], norm: bool = False, kind: str = "SGD") -> Stored:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = perceptron(activation, norm=norm)
        optimizer = KINDS[kind](net)
        for _ in range(30):
            inputs = torch.randn(32, 16)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), inputs[:, :4].argmax(1)).backward()
            optimizer.step()
    return read_stored(saved_by(net, optimizer))


def found(stored: Stored) -> Finding | Skipped | None:
    return RULE.check_stored(stored, RULE.limits)


def in_order(stored: Stored, modules: list[str], order: LayerOrder) -> Stored:
    """The same with its modules in another order."""
    place = {module: number for number, module in enumerate(modules)}
    weights = sorted(stored.weights, key=lambda each: place[each.name.rpartition(".")[0]])
    return replace(stored, weights=tuple(weights), order=order)


def modules(stored: Stored) -> list[str]:
    return list(dict.fromkeys(each.name.rpartition(".")[0] for each in stored.weights))


@pytest.mark.parametrize("order", LayerOrder)
def test_a_decay_is_found_in_the_right_order(order: LayerOrder) -> None:
    finding = found(replace(stored(nn.Sigmoid), order=order))
    assert isinstance(finding, Finding)
    assert finding.sites[0] == "0.bias"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [False, True])
def test_a_healthy_network_is_healthy_in_every_order(norm: bool, kind: str) -> None:
    healthy = stored(nn.ReLU, norm, kind)
    assert found(healthy) is None
    names = modules(healthy)
    for seed in range(200):
        mixed = random.Random(seed).sample(names, len(names))
        for order in LayerOrder:
            assert not isinstance(found(in_order(healthy, mixed, order)), Finding), mixed


def test_one_layer_without_a_gradient_is_no_decay_wherever_it_stands() -> None:
    """Such as one whose units are all but dead."""
    healthy = stored(nn.ReLU)
    names = modules(healthy)
    for odd in names:
        gradients = tuple(
            replace(each, gradient_rms=1e-12) if each.name.startswith(f"{odd}.") else each
            for each in healthy.gradients
        )
        for seed in range(30):
            mixed = random.Random(seed).sample(names, len(names))
            for first in (mixed, [odd, *(name for name in mixed if name != odd)]):
                for order in LayerOrder:
                    changed = in_order(replace(healthy, gradients=gradients), first, order)
                    assert not isinstance(found(changed), Finding), (odd, first)


def test_layers_in_a_wrong_order_are_told_to_be_so_at_most() -> None:
    faulty = stored(nn.Sigmoid)
    names = modules(faulty)
    backwards = in_order(faulty, names[::-1], LayerOrder.NAMES)
    told = found(backwards)
    assert isinstance(told, Skipped)
    assert told.reason.startswith("the file does not keep the order of the layers")
    assert found(replace(backwards, order=LayerOrder.MODEL)) is None
    fired = 0
    for seed in range(300):
        mixed = random.Random(seed).sample(names, len(names))
        finding = found(in_order(faulty, mixed, LayerOrder.NAMES))
        assert finding is not None
        if isinstance(finding, Finding):
            fired += 1
            # What it names has vanished all the same.
            assert {site.partition(".")[0] for site in finding.sites} <= set(names[:5])
    assert fired < 30


def test_two_layers_tell_only_where_their_order_is_known() -> None:
    faulty = stored(nn.Sigmoid)
    ends = tuple(each for each in faulty.weights if each.name in ("0.bias", "18.bias"))
    two = replace(faulty, weights=ends)
    assert isinstance(found(two), Finding)
    assert isinstance(found(replace(two, order=LayerOrder.NAMES)), Skipped)


def test_the_report_says_where_the_order_is_a_guess(tmp_path: Path) -> None:
    safetensors: Any = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    net = perceptron(nn.ReLU, layers=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(4, 16)).sum().backward()
    optimizer.step()
    safetensors.save_file(net.state_dict(), tmp_path / "model.safetensors")
    reasons = {each.what: each.reason for each in scan_checkpoint(tmp_path).skipped}
    assert reasons["order of the layers"] == "is not in the file; it is guessed from their names"
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    assert open_checkpoint(tmp_path).order is LayerOrder.OPTIMIZER
    assert "order of the layers" not in {each.what for each in scan_checkpoint(tmp_path).skipped}
    torch.save({"model": net.state_dict()}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).order is LayerOrder.MODEL


@pytest.mark.parametrize("named", [True, False])
def test_an_optimizer_orders_what_names_would_not(tmp_path: Path, named: bool) -> None:
    """``zulu`` comes first and ``alpha`` last, and ``head`` is no head."""
    safetensors: Any = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    parts = {"zulu": (5, 16), "head": (16, 5), "mike": (16, 16), "alpha": (16, 3)}
    net = nn.ModuleDict({name: nn.Linear(*shape) for name, shape in parts.items()})
    groups: Any = [
        {
            "params": [
                (n, p) if named else p for n, p in net.named_parameters() if (p.ndim > 1) == big
            ]
        }
        for big in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    safetensors.save_file(net.state_dict(), tmp_path / "model.safetensors")
    assert next(iter(open_checkpoint(tmp_path).weights)) == "alpha.weight"
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.weights) == [name for name, _ in net.named_parameters()]
    assert checkpoint.order is LayerOrder.OPTIMIZER
    (read,) = checkpoint.optimizers
    live = {name: optimizer.state[parameter] for name, parameter in net.named_parameters()}
    assert read.state.keys() == live.keys()
    for name, slots in read.state.items():
        kept: Any = slots["exp_avg"]
        assert torch.equal(kept.load(), live[name]["exp_avg"])


def test_dead_units_explain_a_decay_where_most_of_it_is() -> None:
    """Sigmoids lose a like share at each layer: two of nine explain little, seven nearly all."""

    def explained(dead: list[str]) -> bool:
        sites = tuple(f"{module}.weight" for module in dead)
        shown = {"units": Measure(0.9, 0.5, Source.OPTIMIZER_STATE)}
        cause = Finding("GS201", "dead-relu", Severity.WARNING, sites, "", shown)
        return RULE.brought_about(cause, profile(stored=stored(nn.Sigmoid)))

    names = modules(stored(nn.Sigmoid))
    assert not explained(names[-3:-1])
    assert explained(names[:-2])
