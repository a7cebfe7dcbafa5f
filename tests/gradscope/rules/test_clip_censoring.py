"""GS505: clipping in most steps is a remark; rare or no clipping is silent."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import Finding, Severity, Skipped
from gradscope.rules.clip_censoring import ClipCensoring
from tests.gradscope.rules.making import parameter, profile

RULE = ClipCensoring()


def check(*clipping: float, **changed: Any) -> Finding | Skipped | None:
    return RULE.check(profile(clipping=clipping, **changed), RULE.limits)


def test_most_steps_clipped_is_for_info() -> None:
    finding = check(
        1.0,
        *(0.2,) * 7,
        parameters=(parameter(), parameter("2.weight", gradient_norm=(5.0,) * 8)),
    )
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.since) == (Severity.INFO, 1)
    assert finding.sites == ("2.weight",)


@pytest.mark.parametrize(
    "clipping", [(), (1.0,) * 8, (0.2,) * 4 + (1.0,) * 4, (0.999,) * 8, (math.nan,) * 8]
)
def test_rare_clipping_and_rounding_are_silent(clipping: tuple[float, ...]) -> None:
    assert check(*clipping) is None


def test_gradients_that_are_missing_or_not_finite() -> None:
    parameters = (parameter(gradient_norm=(None,) * 8), parameter("b", gradient_norm=(math.nan,)))
    finding = check(*(0.2,) * 8, parameters=parameters)
    assert isinstance(finding, Finding)
    assert finding.sites == ("2",)


def test_without_an_optimizer_nothing_is_clipped() -> None:
    assert isinstance(check(optimizer=None), Skipped)
