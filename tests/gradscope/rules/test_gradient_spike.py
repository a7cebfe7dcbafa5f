"""GS104: one step far above those before; growth from step to step is none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, Severity, Skipped
from gradscope.rules.gradient_spike import GradientSpike
from tests.gradscope.rules.making import parameter, profile

RULE = GradientSpike()


def check(*norms: float | None, **changed: Any) -> Finding | Skipped | None:
    steps = len(norms)
    parameters = (
        parameter("0.weight", steps=steps, gradient_norm=norms),
        parameter("2.weight", steps=steps, gradient_norm=(0.0,) * steps),
    )
    return RULE.check(profile(steps=steps, parameters=parameters, **changed), RULE.limits)


def test_a_spike_is_found_where_it_is() -> None:
    finding = check(*(0.1,) * 6, 5.0, 0.1)
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.since) == (Severity.WARNING, 6)
    assert finding.sites == ("0.weight",)
    assert finding.message.startswith("At step 6 the gradient is 50 times")


def test_a_hard_sample_of_a_network_that_has_learned_is_no_fault() -> None:
    norms = (*(0.1,) * 6, 5.0, 0.1)
    call = LossCall("cross_entropy", "", 10, -9.0, 9.0, 0.0, 9.0, True, 2.3, (2.2,) * 8)
    assert check(*norms, loss_call=call, losses=(*(0.01,) * 6, 0.5, 0.01)) is None
    assert check(*norms, loss_call=call, losses=(*(0.01,) * 6, 5.0, 0.01)) is not None
    assert check(*norms, loss_call=call, losses=(*(2.0,) * 6, 2.3, 2.0)) is not None


def test_a_spike_that_is_clipped_does_no_harm() -> None:
    norms = (*(0.1,) * 6, 5.0, 0.1)
    assert check(*norms, clipping=(*(1.0,) * 6, 0.02, 1.0)) is None
    assert check(*norms, clipping=(*(1.0,) * 6, 0.9, 1.0)) is not None


def test_spikes_that_come_again_are_counted() -> None:
    finding = check(*(0.1, 0.1, 0.1, 0.1, 0.1, 9.0, 0.1, 0.1, 0.1, 9.0))
    assert isinstance(finding, Finding)
    assert "2 of 10 steps" in finding.message


@pytest.mark.parametrize(
    "norms",
    [
        (0.1,) * 8,
        tuple(0.1 * 2**step for step in range(12)),
        (*(0.1,) * 7, 0.9),
        (0.1, 5.0, *(0.1,) * 6),
        (0.0,) * 7 + (1.0,),
        (math.nan,) * 8,
        (*(0.1,) * 7, math.inf),
        (None,) * 8,
    ],
    ids=["even", "grows", "a little", "too early", "from zero", "nan", "infinite", "none"],
)
def test_no_finding(norms: tuple[float | None, ...]) -> None:
    assert check(*norms) is None


def test_a_few_steps_say_nothing() -> None:
    assert isinstance(check(*(0.1,) * 5), Skipped)


def test_steps_that_are_not_finite_are_left_out_of_the_median() -> None:
    assert isinstance(check(0.1, math.nan, 0.1, 0.1, 0.1, math.inf, 0.1, 5.0), Finding)
