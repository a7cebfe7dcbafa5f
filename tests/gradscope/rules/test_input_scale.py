"""GS701: inputs out of scale or uneven fire; sparse, made-up and single odd batches do not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import Finding, LayerInput, Severity, Skipped
from gradscope.rules.input_scale import InputScale
from tests.gradscope.rules.making import profile

RULE = InputScale()


def check(
    rms: float = 1.0, peak: float | None = None, spread: float = 1.5, **changed: Any
) -> Finding | Skipped | None:
    highest = 4 * rms if peak is None else peak
    given = LayerInput("0", (rms,) * 8, (highest,) * 8, (spread,) * 8)
    return RULE.check(profile(**({"first_inputs": (given,)} | changed)), RULE.limits)


@pytest.mark.parametrize("rms", [0.02, 0.46, 1.0, 9.0])
def test_usual_inputs_are_silent(rms: float) -> None:
    assert check(rms) is None


@pytest.mark.parametrize(
    "fault", [{"rms": 117.0}, {"rms": 12.0}, {"rms": 5e-6}, {"spread": 4e3}], ids=str
)
def test_out_of_scale(fault: dict[str, float]) -> None:
    finding = check(**fault)
    assert isinstance(finding, Finding)
    assert finding.sites == ("0",)
    assert (finding.severity is Severity.WARNING) == ("spread" in fault)


def test_sparse_inputs_and_inputs_of_zeros_are_silent() -> None:
    assert check(0.004, peak=1.0) is None
    assert check(0.0, peak=0.0, spread=math.nan) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_left_to_others(value: float) -> None:
    assert check(value, peak=value, spread=value) is None


def test_most_batches_count_and_the_first_odd_one_is_named() -> None:
    def given(*rms: float) -> LayerInput:
        return LayerInput("0", rms, tuple(4 * value for value in rms), (1.0,) * 8)

    assert check(first_inputs=(given(*(1.0,) * 7, 100.0),)) is None
    finding = check(first_inputs=(given(*(1.0,) * 8), given(1.0, *(100.0,) * 7)))
    assert isinstance(finding, Finding)
    assert finding.since == 1


def test_not_looked_at() -> None:
    assert check(first_inputs=()) is None
