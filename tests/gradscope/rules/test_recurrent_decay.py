"""GS602: signals that die or explode over time fire; short ways and single steps do not."""

from __future__ import annotations

import math

import pytest

from gradscope.records import Finding, Severity
from gradscope.rules.recurrent_decay import RecurrentDecay
from tests.gradscope.rules.making import layer, profile

RULE = RecurrentDecay()


def check(*ratios: float, steps: int = 28) -> Finding | None:
    recurrent = layer("recurrent", 0, operator="LSTM", time_steps=steps, time_decay=ratios)
    return RULE.check(profile(recurrent, layer("head", 1, is_output=True)), RULE.limits)


@pytest.mark.parametrize(
    ("ratio", "severity"),
    [
        (0.0, Severity.ERROR),
        (1e-28, Severity.ERROR),
        (1e-19, Severity.WARNING),
        (1e-12, None),
        (2.0, None),
        (300.0, None),
        (5e5, Severity.ERROR),
    ],
)
def test_the_ratio_decides(ratio: float, severity: Severity | None) -> None:
    finding = check(*(ratio,) * 8)
    assert (finding and finding.severity) == severity
    assert finding is None or finding.sites == ("recurrent",)


@pytest.mark.parametrize(
    "ratios", [(), (math.nan,) * 8, (0.0,) * 4 + (1.0,) * 4, (math.inf,) * 8], ids=str
)
def test_single_steps_and_what_is_not_finite_are_silent(ratios: tuple[float, ...]) -> None:
    assert check(*ratios) is None


def test_the_first_faulty_step_is_named() -> None:
    finding = check(1.0, math.nan, *(0.0,) * 6)
    assert finding is not None
    assert finding.since == 2


def test_without_recurrent_layers_there_is_nothing_to_look_at() -> None:
    assert RULE.check(profile(), RULE.limits) is None
