"""GS301: how far updates move weights, and what they do to the loss of their own batch."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, ParameterProfile, Severity, Skipped
from gradscope.rules.update_ratio import UpdateRatio
from tests.gradscope.rules.making import parameter, profile

RULE = UpdateRatio()

FALLS = tuple(2.2 - 0.01 * step for step in range(8))
GROWS = tuple(3.0 + step for step in range(8))
GUESS = LossCall("cross_entropy", "", 10, -1.0, 1.0, 0.0, 9.0, True, 2.3, (2.3,) * 8)


def check(*parameters: ParameterProfile, **changed: Any) -> Finding | Skipped | None:
    entries = {"losses_after": FALLS, "parameters": parameters}
    return RULE.check(profile(**(entries | changed)), RULE.limits)


def ratios(*values: float, name: str = "0.weight", **changed: Any) -> ParameterProfile:
    series = values * 8 if len(values) == 1 else values
    return parameter(name, update_ratio=series, **changed)


def test_a_step_of_half_the_weights_that_harms() -> None:
    finding = check(ratios(0.2, 0.8, *(0.3,) * 6), losses_after=(2.2, *GROWS[1:]))
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.since) == (Severity.ERROR, 0)
    assert "At step 1 the update moves a weight by 0.8 of its norm" in finding.message


def test_a_tenth_that_harms_most_of_the_time() -> None:
    assert isinstance(check(ratios(0.2), losses_after=GROWS), Finding)
    assert check(ratios(0.2), losses_after=(*FALLS[:4], *GROWS[4:])) is None


@pytest.mark.parametrize(
    ("ratio", "after"),
    [(3.0, FALLS), (0.05, GROWS), (3.0, ()), (1e-3, (math.nan,) * 8)],
    ids=["helps", "small", "unknown", "small and nan"],
)
def test_no_finding(ratio: float, after: tuple[float, ...]) -> None:
    assert check(ratios(ratio), losses_after=after) is None


def test_a_loss_that_is_no_number_afterwards_is_harm() -> None:
    assert isinstance(check(ratios(0.9), losses_after=(math.inf, *(math.nan,) * 7)), Finding)


def test_small_steps_that_all_make_it_worse_go_the_wrong_way() -> None:
    growing = ratios(1e-3, 2e-3, 5e-3, 0.2, 0.6, 0.9, 2.0, 5.0)
    assert check(growing, losses_after=GROWS) is None
    assert isinstance(check(growing, losses_after=(*FALLS[:3], *GROWS[3:])), Finding)


def test_the_typical_weight_counts() -> None:
    odd = ratios(9.0, name="odd.weight")
    others = [ratios(1e-3, name=f"{number}.weight") for number in range(3)]
    bias = ratios(9.0, name="0.bias", shape=(32,))
    zero = ratios(9.0, name="zero.weight", weight_norm=0.0)
    assert check(odd, bias, zero, *others, losses_after=GROWS) is None


def test_the_first_step_of_some_optimizers_is_a_long_one() -> None:
    first = ratios(0.9, *(0.05,) * 7)
    harmed = (3.0, *FALLS[1:])
    assert isinstance(check(first, optimizer="Adam", losses_after=harmed), Finding)
    assert check(first, optimizer="RMSprop", losses_after=harmed) is None


def test_updates_that_move_nothing() -> None:
    finding = check(ratios(1e-7))
    assert isinstance(finding, Finding)
    assert finding.severity is Severity.WARNING
    assert "moves any weight by more than 1e-07 of its norm (limit 1e-05)" in finding.message


def test_at_chance_the_limit_is_higher() -> None:
    assert isinstance(check(ratios(3e-5), loss_call=GUESS), Finding)
    assert check(ratios(3e-5)) is None
    assert check(ratios(3e-5), loss_call=GUESS, losses=(0.4,) * 8) is None


@pytest.mark.parametrize(
    "parameters",
    [
        (ratios(1e-7), ratios(1e-3, name="2.weight")),
        (ratios(1e-7), ratios(0.01, name="2.bias", shape=(10,))),
        (ratios(0.0),),
        (ratios(*(1e-7 * (step + 1) for step in range(8))),),
        (ratios(1e-7, weight_norm=0.0),),
        (ratios(math.nan),),
        (),
    ],
    ids=["the last moves", "a bias moves", "stuck", "warm-up", "zeros", "nan", "nothing"],
)
def test_not_too_small(parameters: tuple[ParameterProfile, ...]) -> None:
    assert check(*parameters) is None


def test_momentum_is_no_warm_up() -> None:
    built_up = [1e-7 * sum(0.9**past for past in range(step + 1)) for step in range(8)]
    assert isinstance(check(ratios(*built_up)), Finding)


def test_where_it_cannot_know() -> None:
    assert isinstance(check(parameter(update_ratio=()), optimizer=None), Skipped)


def test_it_starts_where_the_updates_begin_to_harm() -> None:
    growing = ratios(1e-3, 0.02, 0.03, 0.04, 0.06, 0.9, 2.0, 5.0)
    finding = check(growing, losses_after=(*FALLS[:3], *GROWS[3:]))
    assert isinstance(finding, Finding)
    assert finding.since == 3
