"""GS603: eval() far worse than train() fires; dropout, tiny losses and fresh averages do not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, ModeLosses, Role, Skipped
from gradscope.rules.train_eval_gap import TrainEvalGap
from tests.gradscope.rules.making import layer, profile

RULE = TrainEvalGap()


def check(
    train: float,
    evaluated: float,
    batches: int | None = None,
    memory: float | None = None,
    **changed: Any,
) -> Finding | Skipped | None:
    modes = ModeLosses(train, evaluated, batches, memory)
    return RULE.check(profile(modes=modes, **changed), RULE.limits)


def test_a_gap_without_running_statistics_is_looked_for_at_the_output() -> None:
    finding = check(0.5, 5.0)
    assert isinstance(finding, Finding)
    assert finding.sites == ("2",)


def test_a_gap_with_settled_statistics_is_looked_for_at_the_normalisations() -> None:
    norm = layer("1", 1, role=Role.NORMALISATION, operator="BatchNorm1d")
    finding = check(0.5, 5.0, 8, 1.0, sites=(layer(), norm, layer("2", 2, is_output=True)))
    assert isinstance(finding, Finding)
    assert finding.sites == ("1",)


def test_fresh_statistics_are_no_fault() -> None:
    skipped = check(0.5, 5.0, 8, 10.0)
    assert isinstance(skipped, Skipped)
    assert "60 steps" in skipped.reason
    assert check(0.5, 0.6, 8, 10.0) is None


@pytest.mark.parametrize(
    ("train", "evaluated"),
    [(2.0, 0.5), (2.0, 2.0), (1.0, 1.9), (1e-4, 1e-2), (0.0, 0.0), (-3.0, -2.9)],
)
def test_better_or_hardly_worse_is_silent(train: float, evaluated: float) -> None:
    assert check(train, evaluated) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_left_to_others(value: float) -> None:
    assert check(0.5, value) is None
    assert check(value, 0.0) is None


def test_what_is_tiny_depends_on_the_targets() -> None:
    targets = LossCall("mse_loss", "", 1, 0.0, 1.0, 0.0, 0.01, True, math.nan, (1e-6,) * 8)
    assert isinstance(check(1e-7, 1e-6, loss_call=targets), Finding)


def test_what_was_not_measured() -> None:
    assert RULE.check(profile(), RULE.limits) is None
