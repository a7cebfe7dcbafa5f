"""GS502: overshooting updates fire where the loss does not fall; noise between batches does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, Skipped
from gradscope.rules.loss_oscillation import LossOscillation
from tests.gradscope.rules.making import parameter, profile

RULE = LossOscillation()
SWINGING = (2.0, 3.0) * 4
OVERSHOOTING = (0.5, 1.5, 1.5, 0.5, 1.5, 1.5, 0.5, 1.5)
CALL = LossCall("cross_entropy", "", 10, -1, 1, 0, 9, True, math.log(10), (2.2,) * 8)


def check(
    losses: tuple[float, ...], changes: tuple[float, ...], **changed: Any
) -> Finding | Skipped | None:
    """``changes`` are what updates make of the losses, as factors."""
    after = tuple(loss * change for loss, change in zip(losses, changes, strict=True))
    made = profile(steps=len(losses), losses=losses, losses_after=after, loss_call=CALL)
    return RULE.check(replace(made, **changed), RULE.limits)


def test_updates_that_overshoot_are_found_at_the_weight_that_moves_most() -> None:
    finding = check(
        SWINGING,
        OVERSHOOTING,
        parameters=(
            parameter(),
            parameter("2.weight", update_ratio=(0.5,) * 8),
            parameter("2.bias", shape=(32,), update_ratio=(9.0,) * 8),
        ),
    )
    assert isinstance(finding, Finding)
    assert finding.since == 1
    assert finding.sites == ("2.weight",)


def test_a_loss_that_has_come_far_or_cannot_be_judged_need_not_fall() -> None:
    assert check(tuple(loss / 100 for loss in SWINGING), OVERSHOOTING) is None
    assert isinstance(check(SWINGING, OVERSHOOTING, loss_call=None), Skipped)
    assert check(SWINGING, OVERSHOOTING) is not None


def test_a_loss_that_only_differs_from_batch_to_batch_does_not_count() -> None:
    assert check(SWINGING, (0.9,) * 8) is None


def test_overshooting_on_the_way_down_is_healthy() -> None:
    falling = tuple(2.0 - 0.2 * step for step in range(8))
    assert check(falling, (0.5, 1.5) * 2 + (1.5,) * 4) is None


def test_half_of_the_steps_is_not_most() -> None:
    assert check(SWINGING, (0.5, 1.5) * 4) is None


def test_a_loss_that_every_update_raises_does_not_swing() -> None:
    assert check(SWINGING, (1.5,) * 8) is None


JUMPING = (0.5, 1.0, 1.0) * 3 + (0.5,)
"""Losses of which every third update makes six times as much."""
THROWN = (0.9, 0.9, 6.0) * 3 + (0.9,)


def test_a_loss_thrown_up_three_times_is_found() -> None:
    finding = check(JUMPING, THROWN)
    assert isinstance(finding, Finding)
    assert finding.since == 2
    assert finding.evidence["jumps of the loss"].value == 3
    assert check(JUMPING[:8], THROWN[:8]) is None
    assert check(tuple(loss / 4 for loss in JUMPING), THROWN) is None


def test_a_loss_thrown_up_once_and_for_all_does_not_swing() -> None:
    assert (
        check((0.5, 3.0, 9.0, 27.0, 81.0, 81.0, 81.0, 81.0), (6.0, 3.0, 3.0, 3.0) + (0.9,) * 4)
        is None
    )


def test_rounding_is_no_rise() -> None:
    assert check((2.3,) * 8, (1 + 1e-6,) * 7 + (1.0,)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_left_to_others(value: float) -> None:
    assert check((*SWINGING[:-1], value), (1.5,) * 7 + (0.5,)) is None


def test_what_cannot_be_known() -> None:
    assert isinstance(check(SWINGING[:4], (1.5,) * 4), Skipped)
    assert isinstance(RULE.check(profile(optimizer=None), RULE.limits), Skipped)
