"""GS504: a first loss far above that of a guess fires; trained or unknown does not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, Skipped
from gradscope.rules.initial_loss import InitialLoss
from tests.gradscope.rules.making import parameter, profile

RULE = InitialLoss()


def check(*losses: float, chance: float = math.log(10), **changed: Any) -> Finding | Skipped | None:
    call = LossCall("cross_entropy", "", 10, -9.0, 9.0, 0.0, 9.0, True, chance, (2.2,) * 8)
    made = profile(steps=len(losses), losses=losses, **({"loss_call": call} | changed))
    return RULE.check(made, RULE.limits)


def test_confident_nonsense_at_the_start() -> None:
    finding = check(9.0, 6.0)
    assert isinstance(finding, Finding)
    assert finding.sites == ("2",)


@pytest.mark.parametrize("first", [2.3, 4.5, 0.01])
def test_a_guess_and_what_is_better_are_silent(first: float) -> None:
    assert check(first, 9.0) is None


@pytest.mark.parametrize("first", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_left_to_others(first: float) -> None:
    assert check(first, 2.3) is None


def test_what_beats_a_guess_within_eight_steps_did_no_harm() -> None:
    assert check(9.0, 5.0, 2.1, 3.0) is None
    assert isinstance(check(9.0, 2.3, 2.3, 2.3), Finding)
    assert isinstance(check(*(9.0,) * 8, 2.0), Finding)


def test_of_single_samples_several_count() -> None:
    assert check(9.0, *(0.1,) * 7, batch_size=1) is None
    assert isinstance(check(*(9.0,) * 8, batch_size=1), Finding)
    assert isinstance(check(9.0, batch_size=1), Skipped)


def test_rows_of_weights_that_show_training_silence_it() -> None:
    drawn, trained = (parameter(shape=(256, 256), row_spread=spread) for spread in (0.04, 1.0))
    assert isinstance(check(9.0, 6.0, parameters=(drawn,)), Finding)
    assert check(9.0, 6.0, parameters=(trained,)) is None


def test_what_cannot_be_held_against_a_guess() -> None:
    assert check(9.0, chance=math.nan) is None
    assert check(9.0, chance=0.0) is None
    assert isinstance(check(9.0, loss_call=None), Skipped)


def test_a_limit_of_more_steps_than_there_are_takes_those_that_are_there() -> None:
    limits = dataclasses.replace(RULE.limits, steps=1e12)
    call = LossCall("cross_entropy", "", 10, -9.0, 9.0, 0.0, 9.0, True, 2.3, (2.2,) * 8)
    made = profile(losses=(9.0,) * 8, loss_call=call)
    assert isinstance(RULE.check(made, limits), Finding)
