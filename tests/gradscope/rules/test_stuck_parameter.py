"""GS304: what has a gradient and does not change."""

from __future__ import annotations

from typing import Any

import pytest

from gradscope.records import Finding, ParameterProfile, Severity, Skipped
from gradscope.rules.stuck_parameter import StuckParameter
from tests.gradscope.rules.making import parameter, profile

RULE = StuckParameter()

STILL = {"update_ratio": (0.0,) * 8}


def check(*parameters: ParameterProfile, **changed: Any) -> Finding | Skipped | None:
    return RULE.check(profile(parameters=parameters, **changed), RULE.limits)


def test_a_forgotten_parameter() -> None:
    finding = check(parameter("0.weight"), parameter("2.weight", **STILL))
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.sites) == (Severity.WARNING, ("2.weight",))
    assert finding.message.startswith("1 parameters have a gradient and do not change in 8 steps")


def test_nothing_changes_at_all() -> None:
    finding = check(parameter("0.weight", **STILL), parameter("2.weight", **STILL))
    assert isinstance(finding, Finding)
    assert finding.severity is Severity.ERROR
    assert finding.message.startswith("No parameter changes in 8 steps")


@pytest.mark.parametrize(
    "changed",
    [
        {"gradient_norm": (0.0,) * 8},
        {"gradient_norm": (None,) * 8},
        {"gradient_norm": (float("nan"),) * 8},
        {"gradient_norm": (1e-5,) * 8},
        {"gradient_norm": (0.1, 0.1, *(0.0,) * 6)},
        {"update_ratio": (*(0.0,) * 7, 1e-3)},
        {"update_ratio": (float("inf"), *(0.0,) * 7)},
    ],
    ids=["zero", "none", "nan", "vanished", "two steps", "changes late", "from zero"],
)
def test_no_finding(changed: dict[str, Any]) -> None:
    assert check(parameter("0.weight"), parameter("2.weight", **(STILL | changed))) is None


def test_what_it_needs() -> None:
    assert isinstance(check(parameter(update_ratio=()), optimizer=None), Skipped)
    short = parameter(steps=2, update_ratio=(0.0, 0.0))
    assert isinstance(check(short, steps=2), Skipped)
    assert check() is None
