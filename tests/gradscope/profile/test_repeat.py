"""Losses once more: after each update, and in eval()."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.profile import profile_steps
from gradscope.records import Profile

Batch = tuple[Tensor, Tensor]


def batches(count: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(16, 6, generator=generator),
            torch.randint(3, (16,), generator=generator),
        )
        for _ in range(count)
    ]


def step(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def profiled(model: nn.Module, **options: object) -> Profile:
    return profile_steps(model, batches(), step, build_optimizer=sgd, **options)  # type: ignore[arg-type]


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.ReLU(), nn.Linear(8, 3))


def test_losses_after_are_those_of_plain_training() -> None:
    model = network()
    trained = copy.deepcopy(model)
    optimizer = sgd(trained.parameters())
    before, after = [], []
    for batch in batches():
        loss = step(trained, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before.append(float(loss.detach()))
        after.append(float(step(trained, batch).detach()))
    profile = profiled(model)
    assert profile.losses == pytest.approx(before)
    assert profile.losses_after == pytest.approx(after)
    assert all(two < one for one, two in zip(before, after, strict=True))


def test_the_same_units_drop_out_the_second_time() -> None:
    profile = profile_steps(
        network(nn.Dropout(0.5)),
        batches(),
        step,
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
    )
    assert profile.losses_after == pytest.approx(profile.losses)


def test_passing_again_changes_nothing_that_follows() -> None:
    """Running statistics and random numbers go on as if each batch had been passed once."""
    model = network(nn.BatchNorm1d(8), nn.Dropout(0.3))
    trained = copy.deepcopy(model)
    optimizer = sgd(trained.parameters())
    torch.manual_seed(3)
    losses = []
    for batch in batches():
        loss = step(trained, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    profile = profiled(model, seed=3)
    assert profile.losses == pytest.approx(losses)
    assert profile.modes is not None
    assert profile.modes.batches_averaged == 8
    assert profile.modes.memory == pytest.approx(10)


def test_a_step_that_takes_turns_is_not_repeated() -> None:
    turns = []

    def alternating(model: nn.Module, batch: Batch) -> Tensor:
        turns.append(1)
        return step(model, batch) * (1 + len(turns) % 2)

    profile = profile_steps(network(), batches(), alternating, build_optimizer=sgd)
    assert profile.losses_after == ()
    assert profile.modes is None
    assert "losses after updates" in {skip.what for skip in profile.skipped}


def test_without_an_optimizer_there_is_nothing_after() -> None:
    profile = profile_steps(network(), batches(), step)
    assert profile.losses_after == ()
    assert profile.modes is not None
    assert profile.modes.train == pytest.approx(profile.modes.eval)
    assert profile.modes.batches_averaged is None


class Forgetful(nn.Module):
    """Scales its outputs in eval() alone; or fails there."""

    def __init__(self, factor: float = 10.0) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(6, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and math.isnan(self.factor):
            raise RuntimeError("not meant for this")
        return self.layer(x) * (1 if self.training else self.factor)  # type: ignore[no-any-return]


def test_modes_are_compared_on_the_same_batches() -> None:
    modes = profiled(Forgetful()).modes
    assert modes is not None
    assert modes.eval > 1.5 * modes.train


def test_a_model_that_fails_in_eval_is_said_not_raised() -> None:
    profile = profiled(Forgetful(math.nan))
    assert profile.modes is None
    assert any("not meant for this" in skip.reason for skip in profile.skipped)


def test_clipping_by_a_hook_of_the_optimizer_is_seen() -> None:
    def clipped(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        held = list(parameters)
        optimizer = torch.optim.SGD(held, lr=0.1)
        optimizer.register_step_pre_hook(
            lambda *_: torch.nn.utils.clip_grad_norm_(held, 1e-3) and None
        )
        return optimizer

    profile = profile_steps(network(), batches(), step, build_optimizer=clipped)
    norms = [
        math.sqrt(sum((entry.gradient_norm[index] or 0) ** 2 for entry in profile.parameters))
        for index in range(8)
    ]
    assert profile.clipping == pytest.approx([1e-3 / norm for norm in norms], rel=1e-3)
    assert profiled(network()).clipping == (1.0,) * 8
