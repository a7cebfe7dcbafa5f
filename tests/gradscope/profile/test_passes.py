"""Which batches a profile passes, how often, and that it comes out the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope
from gradscope.errors import ModelError, UsageError
from gradscope.records import Profile

STEPS = 3


def pairs(count: int, samples: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(samples, 6, generator=generator),
            torch.randint(3, (samples,), generator=generator),
        )
        for _ in range(count)
    ]


def cross_entropy(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(output, batch[1])


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Sigmoid(), nn.Linear(5, 3))


def test_a_few_batches_are_gone_through_again() -> None:
    model, batches = perceptron(), pairs(2, 20)
    profile = gradscope.profile(model, batches, cross_entropy, steps=5)
    assert profile.steps == 5
    assert profile.losses[:2] * 2 == profile.losses[:4]


def test_no_more_of_endless_data_is_drawn_than_it_takes() -> None:
    drawn = []

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            drawn.append(1)
            assert len(drawn) < 1000
            yield from pairs(1, 50)

    profile = gradscope.profile(perceptron(), endless(), cross_entropy, steps=STEPS)
    assert profile.site("1").observations == 2000
    assert len(drawn) <= 2000 / 50 + 1


def test_a_rare_site_does_not_make_endless_data_run_for_ever() -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.act, self.calls = nn.Linear(6, 3), nn.ReLU(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            y = self.layer(x)
            return self.act(y) if self.calls == 1 else y  # type: ignore[no-any-return]

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(5000):
            yield from pairs(1, 4)
        raise AssertionError("still drawing after 5,000 batches")

    profile = gradscope.profile(Once(), endless(), cross_entropy, steps=2)
    assert profile.site("act").observations == 4


@pytest.mark.parametrize("steps", [0, -1])
def test_a_number_of_steps_that_cannot_be_meant(steps: int) -> None:
    with pytest.raises(UsageError, match="steps"):
        gradscope.profile(perceptron(), pairs(1, 4), cross_entropy, steps=steps)


def test_profiles_are_identical_when_repeated() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)
    )
    batches = pairs(STEPS, 20)

    def profile(seed: int) -> Profile:
        torch.rand(7)
        return gradscope.profile(
            model, batches, cross_entropy, optimizer=torch.optim.Adam, seed=seed
        )

    first = profile(0)
    assert profile(0) == first
    assert profile(1).losses != first.losses
    assert first.epsilon == 1e-8


def test_a_loss_that_is_not_finite_is_no_crash() -> None:
    model = perceptron()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    profile = gradscope.profile(model, pairs(2, 20), cross_entropy, steps=2)
    assert all(np.isnan(loss) for loss in profile.losses)
    assert profile.site("2").forward_nonfinite == (20, 20)
    assert profile.site("0").backward_nonfinite == (160, 160)
    assert [entry.nonfinite for entry in profile.parameters] == [0, 0, 1, 0, 0, 0]


def test_a_failing_optimizer_is_an_error_that_says_so() -> None:
    def failing(parameters: Any) -> torch.optim.Optimizer:
        raise ValueError("momentum must not be 7")

    for optimizer, words in (
        (failing, "momentum must not be 7"),
        (lambda parameters: torch.optim.LBFGS(parameters), "LBFGS"),
    ):
        with pytest.raises(ModelError, match="optimizer") as caught:
            gradscope.profile(perceptron(), pairs(2, 4), cross_entropy, optimizer=optimizer)
        assert words in str(caught.value)
