"""Where the verdict of a rule flips as one of its limits is moved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from gradscope.records import Finding, Profile, Severity
from gradscope.rules import Rule, limit
from gradscope.rules.dead_relu import DeadReLU
from gradscope.rules.forward_collapse import ForwardCollapse
from tests.gradscope.rules.making import layer, profile, site
from tests.zoo.limits import Flip, flip


@dataclass(frozen=True)
class Limits:
    width: float = limit(1.0, "units", "an example")


class Between(Rule[Limits]):
    """It fires with a limit between 0.4 and 2."""

    code, name, limits = "GS000", "between", Limits()

    def check(self, profile: Profile, limits: Limits) -> Finding | None:
        fires = 0.4 < limits.width < 2
        return self.finding(Severity.WARNING, ["0"], "It is.", {}) if fires else None

    def bad(self) -> Any: ...

    def good(self) -> Any: ...


@pytest.mark.parametrize(
    ("dead", "verdict"),
    [(0.2, None), (0.6, Severity.WARNING), (0.9, Severity.ERROR)],
)
def test_a_limit_that_a_number_must_not_be_above(dead: float, verdict: Severity | None) -> None:
    made = profile(layer("0", 0), site("1", 1, dead=dead), layer("2", 2))
    found = flip(DeadReLU(), made, "warning")
    assert found == Flip(pytest.approx(dead, rel=1e-3), False, verdict)


def test_a_change_of_severity_is_a_flip() -> None:
    made = profile(layer("0", 0), site("1", 1, dead=0.6), layer("2", 2))
    found = flip(DeadReLU(), made, "error")
    assert found == Flip(pytest.approx(0.6, rel=1e-3), False, Severity.WARNING)


def test_a_limit_that_a_number_must_not_be_below() -> None:
    made = profile(layer("0", 0), layer("1", 1, variation=(0.01,) * 8), input_variation=(0.8,) * 8)
    found = flip(ForwardCollapse(), made, "variation")
    assert found.fires_above
    assert found.verdict is None
    assert found.value == pytest.approx(0.01 / 0.8, rel=1e-3)


def test_of_two_flips_the_nearest_counts() -> None:
    assert flip(Between(), profile(), "width") == Flip(
        pytest.approx(2, rel=1e-3), False, Severity.WARNING
    )


def test_a_verdict_that_no_value_changes() -> None:
    rule = DeadReLU()
    healthy = profile(layer("0", 0), site("1", 1), layer("2", 2))
    assert flip(rule, healthy, "warning") == Flip(None, False, None)
    rule.limits = replace(rule.limits, warning=0.0)
    assert flip(rule, healthy, "warning").value is None, "a limit of zero stays"
