"""Schedules: both begin with the artificial derivative and hand over to the true one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import nn

import gradscope
from gradscope.errors import UsageError
from gradscope.patch import Patch
from gradscope.schedule import Annealing, Conversion


def patched() -> Patch:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    return gradscope.replace_derivative(model, "relu-logistic", k=3.5, selective=False)


def test_annealing_goes_from_one_to_zero_and_stays() -> None:
    patch = patched()
    annealing = Annealing(patch, steps=4)
    assert patch.strengths == {"1": 1.0, "3": 1.0}
    assert [annealing.step() for _ in range(6)] == [0.75, 0.5, 0.25, 0.0, 0.0, 0.0]
    assert patch.strengths == {"1": 0.0, "3": 0.0}


def test_annealing_goes_on_where_it_was_saved() -> None:
    annealing = Annealing(patched(), steps=4)
    annealing.step()
    later = Annealing(patched(), steps=4, sites="1")
    later.load_state_dict(annealing.state_dict())
    assert later.patch.strengths == {"1": 0.75, "3": 1.0}


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "ten"])
def test_steps_that_cannot_be_meant_are_refused(steps: Any) -> None:
    with pytest.raises(UsageError, match="whole number"):
        Annealing(patched(), steps)


def test_the_conversion_rule_is_the_papers() -> None:
    patch = patched()
    conversion = Conversion(patch)
    #           best 1.0    1.034: not above 1.035 times the best
    assert [conversion.step(loss) for loss in (1.2, 1.0, 1.034)] == [True, True, True]
    assert conversion.step(1.036) is False
    assert patch.strengths == {"1": 0.0, "3": 0.0}
    assert conversion.step(1.0) is False
    assert conversion.step(1.5) is True  # and back again
    assert patch.strengths == {"1": 1.0, "3": 1.0}
    assert conversion.step(math.nan) is True
    assert conversion.best == 1.0


def test_a_run_on_a_plateau_keeps_the_artificial_derivative() -> None:
    conversion = Conversion(patched())
    assert all(conversion.step(2.3026) for _ in range(50))


def test_losses_below_zero_are_compared_by_size() -> None:
    conversion = Conversion(patched())
    assert [conversion.step(loss) for loss in (-1.0, -1.0, -0.97, -0.96)] == [True] * 3 + [False]


@pytest.mark.parametrize("factor", [1.0, 0.9, math.inf, math.nan, "large"])
def test_factors_that_cannot_be_meant_are_refused(factor: Any) -> None:
    with pytest.raises(UsageError, match="factor"):
        Conversion(patched(), factor)


def test_conversion_goes_on_where_it_was_saved() -> None:
    conversion = Conversion(patched())
    conversion.step(1.0)
    conversion.step(2.0)
    later = Conversion(patched())
    later.load_state_dict(conversion.state_dict())
    assert (later.best, later.artificial) == (1.0, False)
    assert later.patch.strengths == {"1": 0.0, "3": 0.0}


def test_a_patch_without_derivatives_has_nothing_to_schedule() -> None:
    with pytest.raises(UsageError, match="no artificial derivatives"):
        Annealing(gradscope.apply(nn.Linear(2, 2), gradscope.Plan()), steps=3)
