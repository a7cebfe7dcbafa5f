"""GS703: an output that never varies fires; zeros that are about to move do not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, Skipped
from gradscope.rules.constant_output import ConstantOutput
from tests.gradscope.rules.making import parameter, profile

RULE = ConstantOutput()


def check(*variation: float, **changed: Any) -> Finding | Skipped | None:
    return RULE.check(profile(output_variation=variation, **changed), RULE.limits)


def targets(*, vary: bool) -> LossCall:
    return LossCall("mse_loss", "", 1, 0.0, 1.0, 0.0, 1.0, vary, math.nan, (math.nan,) * 8)


def test_a_constant_output_fires_at_the_output() -> None:
    finding = check(*(0.0,) * 8)
    assert isinstance(finding, Finding)
    assert (finding.sites, finding.since) == (("2",), 0)
    finding = check(0.3, 0.1, *(1e-8,) * 6)
    assert isinstance(finding, Finding)
    assert finding.since == 2


@pytest.mark.parametrize(
    "variation",
    [
        (),
        (0.3,) * 8,
        (0.0, *(0.1,) * 7),
        (math.nan,) * 8,
        (1e-3,) * 8,
        (0.0,) * 4 + (math.nan,) * 4,
    ],
)
def test_outputs_that_vary_or_are_unknown_are_silent(variation: tuple[float, ...]) -> None:
    assert check(*variation) is None


def test_targets_decide_where_they_are_known() -> None:
    assert check(*(0.0,) * 8, loss_call=targets(vary=False)) is None
    assert isinstance(check(*(0.0,) * 8, loss_call=targets(vary=True)), Finding)


def test_one_sample_says_nothing() -> None:
    assert isinstance(check(*(math.nan,) * 8, batch_size=1), Skipped)


def test_without_updates_a_last_layer_of_zeros_is_not_blamed() -> None:
    zeros = (parameter("2.weight", weight_norm=0.0),)
    assert check(*(0.0,) * 8, optimizer=None, parameters=zeros) is None
    assert isinstance(check(*(0.0,) * 8, parameters=zeros), Finding)
