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
    stepped(net, optimizer, 20)
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


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        inputs = torch.randn(16, WIDTH)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), inputs[:, :5].argmax(dim=1)).backward()
        optimizer.step()


KINDS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, 1e-3),
}


class Residual(nn.Module):
    """A branch that starts at zero, as LoRA, ReZero and many residual networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = x + self.down(torch.relu(self.up(x)))
        return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 1, 2, 30])
def test_branches_that_start_at_zero(tmp_path: Path, kind: str, steps: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(Residual() for _ in range(LAYERS)), nn.Linear(WIDTH, 5))
    optimizer = KINDS[kind](net.parameters())
    stepped(net, optimizer, steps)
    assert scanned(tmp_path, net, optimizer).findings == ()


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_adagrad_before_its_first_step(tmp_path: Path, value: float) -> None:
    net = network()
    optimizer = torch.optim.Adagrad(net.parameters(), 1e-2, initial_accumulator_value=value)
    assert scanned(tmp_path, net, optimizer).findings == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_of_zero(tmp_path: Path, kind: str) -> None:
    net = network()
    optimizer = KINDS[kind](net.parameters())
    stepped(net, optimizer, 20)
    optimizer.param_groups[0]["lr"] = 0.0
    assert scanned(tmp_path, net, optimizer).findings == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_of_zero_is_no_fault(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    net.append(nn.Linear(64, 2))
    optimizer = KINDS[kind](net.parameters())
    targets = torch.arange(64) % 2
    inputs = torch.randn(64, 8) + 4 * targets[:, None]
    for _ in range(900):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(net(inputs), targets) * 1e-9).backward()
        optimizer.step()
    assert not [
        each
        for each in scanned(tmp_path, net, optimizer).findings
        if each.severity is not Severity.INFO
    ]


def test_statistics_that_are_no_numbers(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH))
    net[1].running_var[2] = torch.nan
    assert found(scanned(tmp_path, net, None), "GS401").sites == ("1.running_var",)


def test_kernels_of_one_channel_may_be_alike(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1))
    nn.init.constant_(net[0].weight, 1 / 9)
    net.register_parameter("decay", nn.Parameter(torch.ones(8, 4)))
    assert scanned(tmp_path, net, None).findings == ()


def test_parts_without_state_are_told(tmp_path: Path) -> None:
    net = network()
    optimizer = trained(net)
    for parameter in net[0].parameters():
        del optimizer.state[parameter]
    report = scanned(tmp_path, net, optimizer)
    reason = skipped(report)["the optimizer's state of 2 of 10 parameters"]
    assert "no gradient ever reached" in reason


@pytest.mark.parametrize("name", ["attn.Wqkv", "self_attention.w", "moe.gate", "ffn.up"])
def test_rows_without_gradient_behind_which_no_relu_stands(tmp_path: Path, name: str) -> None:
    names = ("stem.weight", f"{name}.weight", "head.weight")
    weights = {each: nn.Parameter(torch.randn(WIDTH, WIDTH)) for each in names}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-3)
    for _ in range(20):
        for each, weight in weights.items():
            weight.grad = torch.randn_like(weight)
            if name in each:
                weight.grad[: WIDTH // 3 * 2] = 0.0
        optimizer.step()
    saved = {"model": weights, "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "saved.pt")
    report = scan_checkpoint(tmp_path / "saved.pt")
    assert ("GS201" in {each.code for each in report.findings}) is (name == "ffn.up")


def test_without_an_optimizer_gradients_are_not_known(tmp_path: Path) -> None:
    reasons = skipped(scanned(tmp_path, network(), None))
    assert {"GS101", "GS103", "GS201", "GS301"} <= reasons.keys()
