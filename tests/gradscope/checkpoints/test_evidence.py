"""Evidence from live optimizers whose gradients are known, against those gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.checkpoints.checkpoint import Checkpoint, OptimizerState, StoredTensor
from gradscope.checkpoints.evidence.gradients import (
    batch_norm_evidence,
    gradient_evidence,
)
from gradscope.stored import GradientEvidence

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3, "weight_decay": 0.1},
    "NAdam": {"lr": 1e-3},
    "RAdam": {"lr": 1e-3},
    "Adamax": {"lr": 1e-3},
    "RMSprop": {"lr": 1e-3},
    "Adagrad": {"lr": 1e-3},
    "Adafactor": {"lr": 1e-3},
    "SGD": {"lr": 1e-3, "momentum": 0.9},
}


def stored(tensor: Tensor) -> StoredTensor:
    tensor = tensor.detach()
    return StoredTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def checkpoint(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, kind: str = ""
) -> Checkpoint:
    names = {id(parameter): name for name, parameter in parameters.items()}
    settings = {
        names[id(each)]: {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
        for each in group["params"]
    }
    state = {
        names[id(each)]: {
            key: stored(value) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        for each, values in optimizer.state.items()
    }
    kind = kind or type(optimizer).__name__
    weights = {name: stored(each) for name, each in parameters.items()}
    return Checkpoint(
        "live", "tensors", weights, optimizers=(OptimizerState(kind, settings, state, "by name"),)
    )


def noise(size: float, silent_rows: int = 0, since: int = 0) -> Callable[[int, Tensor], Tensor]:
    """Gradients of independent steps; the first rows have none from a step on."""

    def gradient(step: int, weight: Tensor) -> Tensor:
        drawn = torch.randn_like(weight) * size
        if step >= since:
            drawn[:silent_rows] = 0.0
        return drawn

    return gradient


def after(
    gradient: Callable[[int, Tensor], Tensor],
    kind: str = "Adam",
    steps: int = 200,
    shape: tuple[int, ...] = (40, 50),
    scale: float = 0.05,
    **settings: Any,
) -> tuple[GradientEvidence, Tensor, Tensor]:
    """Evidence, the weight before the last step, and after it."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape) * scale)
    made = getattr(torch.optim, kind)([weight], **{**OPTIMIZERS.get(kind, {}), **settings})
    before = weight.detach().clone()
    for step in range(steps):
        before = weight.detach().clone()
        weight.grad = gradient(step, weight.detach())
        made.step()
    (found,) = gradient_evidence(checkpoint({"layer.weight": weight}, made))
    return found, before, weight.detach()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("size", [1e-8, 1e-2])
def test_gradient_rms(kind: str, size: float) -> None:
    found, _, _ = after(noise(size), kind)
    # Adamax remembers the largest, of hundreds of steps.
    low, high = (2.0, 4.0) if kind == "Adamax" else (0.9, 1.1)
    # Its own eps of 1e-8 is under the maximum.
    assert low * size < found.gradient_rms < high * size + (1e-8 if kind == "Adamax" else 0.0)
    assert found.has_state
    assert not found.nonfinite


@pytest.mark.parametrize("kind", ["Adam", "NAdam", "SGD"])
def test_coupled_weight_decay_is_taken_out(kind: str) -> None:
    found, _, _ = after(noise(1e-3), kind, weight_decay=1e-2, lr=1e-8, scale=1.0)
    assert found.gradient_rms == pytest.approx(1e-3, rel=0.1)
    assert found.decay_share == pytest.approx(10, rel=0.1)


def test_decoupled_weight_decay_is_not_in_the_moments() -> None:
    found, _, _ = after(noise(1e-4), "AdamW", weight_decay=1e-2, scale=1.0)
    assert (found.decay_share, found.moment) == (0.0, "second")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_rows_that_never_had_a_gradient(kind: str) -> None:
    found, _, _ = after(noise(1e-2, silent_rows=30), kind)
    assert found.silent_rows == 0.75
    assert found.inactive_rows == 0.75


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "NAdam", "RAdam", "SGD"])
@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_rows_that_died_a_hundred_steps_ago(kind: str, decay: float) -> None:
    found, _, _ = after(noise(1e-2, silent_rows=10, since=100), kind, weight_decay=decay, lr=1e-5)
    assert found.inactive_rows == 0.25


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_rows_that_died_ten_steps_ago_are_not_seen(kind: str) -> None:
    found, _, _ = after(noise(1e-2, silent_rows=10, since=190), kind)
    assert found.inactive_rows == 0.0


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_gradient_zero(kind: str) -> None:
    found, _, _ = after(noise(0.0), kind, steps=20)
    assert found.gradient_rms == pytest.approx(0.0, abs=1e-7)
    assert found.inactive_rows == 1.0


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD"])
def test_the_update_is_the_one_that_was_made(kind: str) -> None:
    found, before, weight = after(noise(1e-2), kind, weight_decay=0.0)
    real = float((weight - before).norm() / weight.norm())
    assert found.update_ratio == pytest.approx(real, rel=1e-3)


@pytest.mark.parametrize("kind", ["RMSprop", "Adagrad"])
def test_an_update_whose_gradient_is_not_kept_has_its_size(kind: str) -> None:
    found, before, weight = after(noise(1e-2), kind)
    real = float((weight - before).norm() / weight.norm())
    assert found.update_ratio == pytest.approx(real, rel=0.2)


def test_muon_steps_are_orthogonal() -> None:
    found, before, weight = after(noise(1e-2), "Muon", lr=1e-3, weight_decay=0.0)
    real = float((weight - before).norm() / weight.norm())
    assert found.update_ratio == pytest.approx(real, rel=0.25)
    assert found.moment == "first"


def test_learning_rates_of_a_schedule() -> None:
    weight = nn.Parameter(torch.randn(8, 8))
    made = torch.optim.Adam([weight], lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1.0 - step / 10)
    for _ in range(10):
        weight.grad = torch.randn(8, 8)
        made.step()
        schedule.step()
    (found,) = gradient_evidence(checkpoint({"weight": weight}, made))
    assert (found.learning_rate, found.initial_learning_rate) == (0.0, 1e-2)
    assert found.update_ratio == 0.0


@pytest.fixture
def parts() -> tuple[dict[str, Tensor], torch.optim.Optimizer]:
    parameters: dict[str, Tensor] = {
        name: nn.Parameter(torch.randn(shape))
        for name, shape in {
            "frozen.weight": (6, 4),
            "up.weight": (4, 6),
            "up.bias": (6,),
            "tokens_embedding.weight": (50, 4),
            "late.weight": (5, 5),
            "late.bias": (5,),
        }.items()
    }
    made = torch.optim.Adam(list(parameters.values()), lr=1e-3)
    for step in range(10):
        for name, each in parameters.items():
            missing = name.startswith("frozen") or (name.startswith("late") and step < 5)
            each.grad = None if missing else torch.randn_like(each)
        made.step()
    return parameters, made


def test_what_is_told_of_each_parameter(
    parts: tuple[dict[str, Tensor], torch.optim.Optimizer],
) -> None:
    found = {each.name: each for each in gradient_evidence(checkpoint(*parts))}
    assert list(found) == list(parts[0])
    assert not found["frozen.weight"].has_state
    assert found["frozen.weight"].inactive_rows is None
    assert math.isnan(found["frozen.weight"].gradient_rms)
    assert (found["late.weight"].step, found["late.weight"].steps_behind) == (5, 5)
    assert found["tokens_embedding.weight"].embedding
    assert found["tokens_embedding.weight"].inactive_rows is None
    assert found["up.weight"].rows_are_units is False
    assert found["up.weight"].inactive_rows is None
    assert found["late.weight"].rows_are_units is None
    assert found["up.bias"].rows_are_units is True


def test_moments_that_are_not_finite() -> None:
    found, _, _ = after(lambda step, weight: torch.full_like(weight, math.nan), steps=1)
    assert found.nonfinite


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_no_state_and_no_settings(kind: str) -> None:
    weight = stored(torch.ones(3, 3))
    state = {"w": {"exp_avg_sq": stored(torch.ones(3, 3)), "step": 4.0}}
    found = gradient_evidence(
        Checkpoint("a", "b", {"w": weight}, optimizers=(OptimizerState(kind, {}, state, ""),))
    )
    assert found[0].gradient_rms == pytest.approx(1 / math.sqrt(1 - 0.999**4))
    assert math.isnan(found[0].update_ratio)
    assert not gradient_evidence(Checkpoint("a", "b", {"w": weight}))


@pytest.mark.parametrize(
    "settings",
    [{"betas": "no", "lr": None}, {"betas": [2.0, -1.0], "eps": "x"}, {"weight_decay": [1]}],
)
def test_settings_that_mean_nothing_are_not_used(settings: dict[str, Any]) -> None:
    state = {"w": {"exp_avg_sq": stored(torch.ones(3, 3)), "exp_avg": stored(torch.ones(2))}}
    found = gradient_evidence(
        Checkpoint("a", "b", {}, optimizers=(OptimizerState("Adam", {"w": settings}, state, ""),))
    )
    assert found[0].gradient_rms == 1.0
    assert math.isnan(found[0].mean_gradient_rms)


def test_batch_norm_evidence() -> None:
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    norm = model[1]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 1.0, 0.0, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -4.0, 0.0, -1.0]))
        norm.running_var.copy_(torch.tensor([1.0, 1.0, 1.0, 0.0, 1e-40]))
    weights = {name: stored(each) for name, each in model.state_dict().items()}
    (found,) = batch_norm_evidence(Checkpoint("a", "b", weights))
    assert (found.name, found.channels, found.off_channels) == ("1", 5, 0.4)
    assert found.off_probability == pytest.approx((0.5 + 0.1587 + 1.0 + 0.5 + 1.0) / 5, abs=1e-3)
    assert (found.zero_variance, found.subnormal_variance) == (0.2, 0.2)
    assert found.largest_variance == 1.0


def test_normalisations_without_a_scale_are_left_out() -> None:
    model = nn.Sequential(nn.BatchNorm2d(5, affine=False), nn.LayerNorm(5), nn.InstanceNorm2d(5))
    weights = {name: stored(each) for name, each in model.state_dict().items()}
    assert batch_norm_evidence(Checkpoint("a", "b", weights)) == ()
