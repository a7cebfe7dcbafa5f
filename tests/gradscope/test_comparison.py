"""The paired statistics against the formulas worked out by hand, and where nothing varies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradscope.comparison import SIGNIFICANCE, compare

BEFORE = [0.10, 0.12, 0.09, 0.11, 0.10]
AFTER = [0.71, 0.78, 0.69, 0.80, 0.74]


def test_it_is_the_paired_t_test() -> None:
    result = compare(BEFORE, AFTER)
    difference = np.subtract(AFTER, BEFORE)
    mean, error = difference.mean(), difference.std(ddof=1) / math.sqrt(5)
    t = mean / error
    assert result.before == pytest.approx(0.104)
    assert result.after == pytest.approx(0.744)
    assert result.difference == pytest.approx(mean)
    assert result.p_value == pytest.approx(2 * stats.t.sf(t, df=4), rel=1e-9)
    half = stats.t.ppf(0.975, df=4) * error
    assert result.interval == pytest.approx((mean - half, mean + half), rel=1e-9)
    assert result.effect_size == pytest.approx(mean / difference.std(ddof=1))
    assert result.significant


def test_swapping_the_arms_changes_the_sign_and_not_the_p_value() -> None:
    forth, back = compare(BEFORE, AFTER), compare(AFTER, BEFORE)
    assert back.p_value == pytest.approx(forth.p_value)
    assert back.difference == pytest.approx(-forth.difference)
    assert back.effect_size == pytest.approx(-forth.effect_size)
    assert back.interval == pytest.approx((-forth.interval[1], -forth.interval[0]))


def test_pairs_matter() -> None:
    """The same values in another pairing: seeds that differ more than the arms do."""
    before = [1.0, 2.0, 3.0, 4.0, 5.0]
    after = [1.1, 2.11, 3.1, 4.09, 5.1]
    assert compare(before, after).p_value < 1e-4
    assert compare(before, after[::-1]).p_value > 0.5


def test_an_arm_does_not_differ_from_itself() -> None:
    result = compare(BEFORE, BEFORE)
    assert (result.p_value, result.effect_size, result.interval) == (1.0, 0.0, (0.0, 0.0))
    assert not result.significant


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_equal_differences_are_certain(shift: float) -> None:
    result = compare([1.0, 2.0, 4.0], [value + shift for value in (1.0, 2.0, 4.0)])
    assert result.p_value == 0.0
    assert result.interval == (shift, shift)
    assert result.effect_size == math.copysign(math.inf, shift)
    assert result.significant


def test_constant_arms_that_differ_are_certain() -> None:
    assert compare([0.1] * 5, [0.9] * 5).p_value < 1e-9
    assert compare([0.1] * 5, [0.1] * 5).p_value == 1.0


def test_a_run_that_has_no_value_never_makes_a_difference_significant() -> None:
    result = compare([0.1, 0.1, math.nan, 0.1, 0.1], AFTER)
    assert not result.significant


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=20))
def test_results_are_in_range_and_agree(pairs: list[tuple[float, float]]) -> None:
    before, after = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    result = compare(before, after)
    low, high = result.interval
    slack = 1e-9 * (1 + abs(result.before) + abs(result.after))
    assert 0 <= result.p_value <= 1
    assert low - slack <= result.difference <= high + slack
    assert result.significant is (result.p_value < SIGNIFICANCE)
    if result.effect_size:
        assert math.copysign(1, result.effect_size) == math.copysign(1, result.difference)
