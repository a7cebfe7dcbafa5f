"""GS501: flat and above the trivial loss fires; converged, falling, noisy or unknown does not."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, Skipped
from gradscope.rules.loss_plateau import LossPlateau
from tests.gradscope.rules.making import parameter, profile

STEPS = 100
RULE = LossPlateau()


def call(**changed: Any) -> LossCall:
    entries: dict[str, Any] = {
        "function": "cross_entropy",
        "behind": "",
        "outputs": 10,
        "input_low": -1.0,
        "input_high": 1.0,
        "target_low": 0.0,
        "target_high": 9.0,
        "targets_vary": True,
        "guess": math.log(10),
        "constant": (2.23,) * STEPS,
    }
    return LossCall(**(entries | changed))


def losses(fall: float = 0.0, noise: float = 0.005, level: float = 2.3) -> tuple[float, ...]:
    """They fall by that much per 10 steps, in shares of ``level``, and scatter."""
    draw = random.Random(0).gauss
    return tuple(level * (1 - fall * step / 10) + draw(0, noise) for step in range(STEPS))


def check(
    series: tuple[float, ...], loss_call: LossCall | None = None, **changed: Any
) -> Finding | Skipped | None:
    made = profile(steps=len(series), losses=series, loss_call=loss_call or call(), **changed)
    return RULE.check(made, RULE.limits)


def test_a_flat_loss_at_chance_is_found_from_the_second_third_on() -> None:
    finding = check(losses())
    assert isinstance(finding, Finding)
    assert finding.since == STEPS // 3
    assert finding.sites == ("2",)


@pytest.mark.parametrize("fall", [0.006, 0.02, 0.1])
def test_a_loss_that_falls_slowly_is_no_plateau(fall: float) -> None:
    assert check(losses(fall)) is None


def test_a_loss_that_grows_is_no_plateau() -> None:
    assert check(losses(-0.05)) is None


def test_a_plateau_below_the_trivial_loss_is_convergence() -> None:
    assert check(losses(level=2.2)) is None


def test_a_noisy_loss_says_nothing() -> None:
    skipped = check(losses(noise=0.06))
    assert isinstance(skipped, Skipped)
    assert "--steps" in skipped.reason


def test_the_luck_of_unequal_classes_is_taken_out() -> None:
    luck = losses(noise=0.3, level=1.0)
    trivial = call(constant=tuple(value - 0.05 for value in luck))
    steady = tuple(value + part for value, part in zip(luck, losses(level=0.01), strict=True))
    assert isinstance(check(steady, trivial), Finding)


def test_too_few_steps() -> None:
    assert isinstance(check(losses()[:59]), Skipped)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_left_to_others(value: float) -> None:
    assert check((*losses()[:-1], value)) is None


def test_where_the_loss_of_a_constant_is_unknown_or_zero() -> None:
    assert check(losses(), call(constant=(math.nan,) * STEPS)) is None
    assert check(losses(), call(targets_vary=False, constant=(0.0,) * STEPS)) is None
    assert check(losses(), optimizer=None) is None
    unknown = profile(steps=STEPS, losses=losses(), loss_call=None)
    assert isinstance(RULE.check(unknown, RULE.limits), Skipped)


def test_where_gradients_grow_the_plateau_is_being_left() -> None:
    growing = tuple(1e-3 * 1.02**step for step in range(STEPS))
    bias = parameter("2.bias", shape=(10,), steps=STEPS, gradient_norm=growing)
    weight = parameter(steps=STEPS, gradient_norm=growing)
    silent = parameter("none", steps=STEPS, gradient_norm=(None,) * STEPS)
    assert isinstance(check(losses(), parameters=(bias, silent)), Finding)
    assert check(losses(), parameters=(weight, silent)) is None
    far = call(constant=(0.5,) * STEPS)
    assert isinstance(check(losses(), far, parameters=(weight, silent)), Finding)
