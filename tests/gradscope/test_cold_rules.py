"""Rules on checkpoints: what each finds in weights and moments, and what it lets pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradscope.pipeline import scan_checkpoint
from gradscope.records import Finding, Report, Severity

WIDTH, LAYERS = 32, 4


def network(norm: bool = False, width: int = WIDTH) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        layers += [nn.Linear(width, width), *([nn.LayerNorm(width)] if norm else []), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 5))


def trained(net: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(20):
        inputs = torch.randn(16, WIDTH)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), inputs[:, :5].argmax(dim=1)).backward()
        optimizer.step()
    return optimizer


def scanned(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer | None) -> Report:
    saved: dict[str, Any] = {"model": net.state_dict()}
    if optimizer is not None:
        saved["optimizer"] = optimizer.state_dict()
    torch.save(saved, folder / "saved.pt")
    return scan_checkpoint(folder / "saved.pt")


def found(report: Report, code: str) -> Finding:
    (finding,) = (each for each in report.findings if each.code == code)
    return finding


def skipped(report: Report) -> dict[str, str]:
    return {each.what: each.reason for each in report.skipped}


def scaled(std: float) -> Callable[[nn.Module], None]:
    def scale(layer: nn.Module) -> None:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)

    return scale


@pytest.mark.parametrize("with_optimizer", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_a_healthy_network_has_no_findings(
    tmp_path: Path, norm: bool, with_optimizer: bool
) -> None:
    net = network(norm)
    optimizer = trained(net)
    assert scanned(tmp_path, net, optimizer if with_optimizer else None).findings == ()


@pytest.mark.parametrize(("std", "width", "how"), [(1.0, 1024, "above"), (0.01, 64, "below")])
def test_weights_off_scale(tmp_path: Path, std: float, width: int, how: str) -> None:
    net = network(width=width).apply(scaled(std))
    finding = found(scanned(tmp_path, net, None), "GS303")
    assert how in finding.message
    assert finding.sites == tuple(f"{2 * index}.weight" for index in range(LAYERS))


def test_normalisations_excuse_the_scale(tmp_path: Path) -> None:
    report = scanned(tmp_path, network(norm=True).apply(scaled(0.01)), None)
    assert report.findings == ()
    assert "normalisations" in skipped(report)["GS303"]


def test_rows_that_are_alike(tmp_path: Path) -> None:
    net = network()
    weight: Any = net[2].weight
    with torch.no_grad():
        weight[: WIDTH // 2] = weight[0]
    assert scanned(tmp_path, net, None).findings == ()
    with torch.no_grad():
        weight[: WIDTH // 2 + 1] = weight[0]
    assert found(scanned(tmp_path, net, None), "GS302").sites == ("2.weight",)


def test_numbers_that_are_none(tmp_path: Path) -> None:
    net = network()
    weight: Any = net[4].weight
    with torch.no_grad():
        weight[3, 7] = torch.nan
        weight[9, 1] = torch.inf
    finding = found(scanned(tmp_path, net, None), "GS401")
    assert finding.sites == ("4.weight",)
    assert "[3, 7]" in finding.message
    assert finding.severity is Severity.ERROR
    assert finding.evidence["non-finite weights"].value == 2


def test_masks_and_tables_of_angles_are_no_weights(tmp_path: Path) -> None:
    net = network().apply(scaled(0.01))
    attention = nn.Module()
    attention.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))
    attention.register_buffer("bias", torch.ones(1, 1, 8, 8).tril())
    attention.register_buffer("inv_freq", torch.ones(8))
    net.add_module("attention", attention)
    assert {each.code for each in scanned(tmp_path, net, None).findings} == {"GS303"}


def test_moments_that_are_no_numbers(tmp_path: Path) -> None:
    net = network()
    optimizer = trained(net)
    optimizer.state[net[2].bias]["exp_avg_sq"][3] = torch.inf
    finding = found(scanned(tmp_path, net, optimizer), "GS401")
    assert finding.sites == ("2.bias",)
    assert "the next step" in finding.message


def test_a_parameter_that_never_had_a_gradient(tmp_path: Path) -> None:
    net = network()
    optimizer = trained(net)
    for moment in ("exp_avg", "exp_avg_sq"):
        optimizer.state[net[2].weight][moment].zero_()
    finding = found(scanned(tmp_path, net, optimizer), "GS103")
    assert finding.sites == ("2.weight",)


def test_a_frozen_parameter_is_none(tmp_path: Path) -> None:
    net = network()
    net[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for parameter in net[2:].parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert "GS103" not in {each.code for each in scanned(tmp_path, net, optimizer).findings}


def test_without_an_optimizer_gradients_are_not_known(tmp_path: Path) -> None:
    reasons = skipped(scanned(tmp_path, network(), None))
    assert {"GS101", "GS103", "GS201", "GS301"} <= reasons.keys()
