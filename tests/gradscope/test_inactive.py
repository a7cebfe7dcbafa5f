"""Small trainings whose optimizers are read: which units are told to be dead, and which are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradscope.inactive import inactive_units
from gradscope.pipeline import scan_checkpoint
from gradscope.records import Report
from gradscope.stored import GradientEvidence, Stored, StoredRole, StoredWeight, TensorStatistics

Build = Callable[[nn.Module], torch.optim.Optimizer]


def sgd(model: nn.Module, decay: float = 0.0, rate: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=decay)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-3)


def decayed(model: nn.Module) -> torch.optim.Optimizer:
    return sgd(model, 5e-3)


def mlp(activation: type[nn.Module] = nn.ReLU, hidden: int = 3, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(hidden):
        layers += [nn.Linear(32 if number else 20, 32, bias), activation()]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def scanned(
    folder: Path,
    model: nn.Module,
    build: Build,
    *,
    steps: int = 200,
    change: Callable[[int, nn.Module, Tensor], Tensor | None] = lambda step, model, x: None,
) -> Report:
    """``change`` may set a model's weights before a step, or return other inputs for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        optimizer = build(model)
        middles = torch.randn(4, 20)
        for step in range(steps):
            labels = torch.randint(4, (32,))
            x = middles[labels] + torch.randn(32, 20)
            with torch.no_grad():
                other = change(step, model, x)
            optimizer.zero_grad()
            cross_entropy(model(x if other is None else other), labels).backward()
            optimizer.step()
    path = folder / "last.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return scan_checkpoint(path)


def shares(report: Report) -> dict[str, float]:
    assert report.profile is not None
    assert report.profile.stored is not None
    return inactive_units(report.profile.stored)


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


def silenced(layer: int, share: float, at: int) -> Callable[[int, nn.Module, Tensor], None]:
    def change(step: int, model: nn.Module, x: Tensor) -> None:
        if step == at:
            bias = model.get_submodule(str(layer)).get_parameter("bias")
            bias[: round(share * len(bias))] = -100.0

    return change


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("build", [sgd, adam, decayed])
def test_a_layer_that_died_as_a_whole_hides_those_before_it(build: Build, tmp_path: Path) -> None:
    report = scanned(tmp_path, mlp(), build, change=silenced(2, 1.0, at=50))
    told = shares(report)
    # All of a momentum's rows have shrunk alike: none is small beside the others.
    assert told["2.weight"] == 1.0
    assert "0.weight" not in told
    assert told["4.weight"] < 0.6
    assert "GS201" in codes(report)


@pytest.mark.parametrize("build", [sgd, adam, decayed])
def test_units_that_died_are_counted(build: Build, tmp_path: Path) -> None:
    report = scanned(tmp_path, mlp(), build, change=silenced(2, 0.75, at=50))
    told = shares(report)
    assert told["2.weight"] == pytest.approx(0.75, abs=0.1)
    assert max(told["0.weight"], told["4.weight"]) < 0.3
    assert codes(report) == {"GS201"}


@pytest.mark.parametrize("build", [sgd, adam, decayed])
def test_a_healthy_network_has_few(build: Build, tmp_path: Path) -> None:
    report = scanned(tmp_path, mlp(), build)
    assert max(shares(report).values()) < 0.3
    assert len(shares(report)) == 3
    assert not codes(report)


def test_a_gradient_that_vanishes_behind_weight_decay_kills_no_units(tmp_path: Path) -> None:
    report = scanned(tmp_path, mlp(nn.Sigmoid, 10), lambda model: sgd(model, 5e-4))
    assert max(shares(report).values()) < 0.3
    assert "GS201" not in codes(report)


def test_one_huge_gradient_does_not_make_units_look_dead(tmp_path: Path) -> None:
    model = mlp(bias=False)

    def change(step: int, model: nn.Module, x: Tensor) -> Tensor | None:
        return x * 1e5 if step == 50 else None

    report = scanned(tmp_path, model, adam, change=change)
    assert report.profile is not None
    assert report.profile.stored is not None
    evidence = report.profile.stored.gradient("4.weight")
    assert evidence is not None
    # What the rows by themselves would say.
    assert evidence.inactive_rows is not None
    assert evidence.inactive_rows > 0.5
    assert "4.weight" not in shares(report)
    assert "GS201" not in codes(report)


def test_updates_that_are_small_because_nothing_comes_back_are_not_the_rates(
    tmp_path: Path,
) -> None:
    dead = scanned(tmp_path, mlp(), sgd, change=silenced(4, 1.0, at=20))
    assert "GS301" not in codes(dead)
    slow = scanned(tmp_path, mlp(), lambda model: sgd(model, rate=1e-7))
    assert codes(slow) == {"GS301"}


class Cut(nn.Module):
    """No gradient comes back to the trunk, which gives the head inputs all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = mlp(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.trunk(x) * 0.0 + 1.0)
        return result


def test_units_that_are_cut_off_are_not_dead(tmp_path: Path) -> None:
    report = scanned(tmp_path, Cut(), adam)
    assert not shares(report)
    assert codes(report) == {"GS103"}


# --- Records made by hand ---------------------------------------------------------------------


def weight(name: str, *shape: int, role: StoredRole = StoredRole.WEIGHT) -> StoredWeight:
    statistics = TensorStatistics(64, 1.0, 0, None, rows=shape[0])
    return StoredWeight(name, shape, "float32", role, statistics)


def half_silent(*weights: StoredWeight) -> Stored:
    """Half the rows of all of them have no gradient."""
    gradients = tuple(
        GradientEvidence(
            each.name,
            each.shape,
            "AdamW",
            has_state=True,
            moment="second",
            gradient_rms=1e-2,
            mean_gradient_rms=2e-3,
            silent_rows=0.5,
        )
        for each in weights
    )
    return Stored("checkpoint", 100, ("AdamW",), (), weights, gradients, ())


LAYERS = (weight("up.weight", 64, 32), weight("head.weight", 10, 64))
STEM = weight("stem.weight", 32, 32)


def test_rows_of_layers_are_units() -> None:
    told = inactive_units(half_silent(STEM, *LAYERS))
    assert told == {"stem.weight": 0.5, "up.weight": 0.5}


@pytest.mark.parametrize(
    "name",
    [
        "block.attn.qkv.weight",
        "block.attention.in_proj_weight",
        "layer.0.attention.self.query.weight",
        "layers.0.self_attn.k_proj.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
    ],
)
def test_what_attention_compares_is_no_layer_before_a_relu(name: str) -> None:
    compared = half_silent(STEM, weight(name, 64, 32), *LAYERS)
    assert set(inactive_units(compared)) == {"stem.weight", "up.weight"}


def test_tables_that_no_name_gives_away() -> None:
    table, other = weight("entry.weight", 960, 32), weight("item.weight", 500, 32)
    positions = weight("position", 64, 32)
    told = inactive_units(half_silent(positions, table, other, STEM, *LAYERS))
    assert set(told) == {"stem.weight", "up.weight"}
    # The same first, with a bias: a layer that widens.
    bias = weight("entry.bias", 960, role=StoredRole.BIAS)
    assert inactive_units(half_silent(table, bias, STEM, *LAYERS))["entry.weight"] == 0.5
    # A normalisation may stand behind a table, as in Transformers that normalise first.
    scale = weight("norm.weight", 32, role=StoredRole.SCALE)
    assert "entry.weight" not in inactive_units(half_silent(table, scale, STEM, *LAYERS))
    # A kernel is no table.
    kernel = weight("entry.weight", 960, 32, 3, 3)
    assert inactive_units(half_silent(kernel, STEM, *LAYERS))["entry.weight"] == 0.5


def test_a_layer_before_one_without_any_live_unit_is_not_told() -> None:
    bias = weight("head.bias", 10, role=StoredRole.BIAS)
    stored = half_silent(STEM, *LAYERS, bias)
    stopped = {"silent_rows": 0.0, "stopped_rows": 1.0, "mean_gradient_rms": 0.0}
    gone = tuple(
        replace(each, **stopped) if each.name.endswith("weight") else each
        for each in stored.gradients
    )
    assert inactive_units(replace(stored, gradients=gone)) == {"up.weight": 1.0}


def test_what_never_had_a_gradient_has_not_died() -> None:
    bias = weight("head.bias", 10, role=StoredRole.BIAS)
    stored = half_silent(STEM, *LAYERS, bias)
    never = {"silent_rows": 1.0, "gradient_rms": 0.0, "mean_gradient_rms": 0.0}
    cut = tuple(
        replace(each, **never) if each.name.endswith("weight") else each
        for each in stored.gradients
    )
    assert inactive_units(replace(stored, gradients=cut)) == {}


def test_a_branch_that_starts_at_zero_is_not_dead(tmp_path: Path) -> None:
    """Its layers get next to no gradient yet, and the head gets inputs all the same."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(20, 32)
            self.up, self.down = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
            self.gate = nn.Parameter(torch.zeros(32))
            self.head = nn.Linear(32, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.gate * self.down(torch.relu(self.up(x)))
            result: Tensor = self.head(x)
            return result

    report = scanned(tmp_path, Residual(), lambda model: sgd(model, rate=1e-7))
    assert "down.weight" not in shares(report)
    assert "GS201" not in codes(report)
