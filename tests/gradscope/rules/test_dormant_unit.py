"""GS203: most units all but silent, dead ones not counted again."""

from __future__ import annotations

from typing import Any

import pytest

from gradscope.records import Finding, Role, Severity, Skipped
from gradscope.rules.dormant_unit import DormantUnit
from tests.gradscope.rules.making import layer, profile, site

RULE = DormantUnit()


def check(**changed: Any) -> Finding | Skipped | None:
    return RULE.check(profile(layer(), site("1", 1, **changed)), RULE.limits)


def test_dormant_units_are_found() -> None:
    finding = check(dormant=0.9, dead=0.05)
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.sites) == (Severity.WARNING, ("1",))
    assert "85% of the 32 units at 1 are dormant" in finding.message


def test_activations_without_a_dead_zone_have_a_stricter_limit() -> None:
    smooth = {"operator": "GELU", "dead": None, "always_positive": None}
    assert isinstance(check(dormant=0.4, **smooth), Finding)
    assert check(dormant=0.25, **smooth) is None
    assert check(dormant=0.4) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"dormant": 1.0, "dead": 1.0},
        {"dormant": 0.9, "dead": 0.3},
        {"dormant": 0.9, "shape": (64, 4)},
        {"dormant": 0.9, "is_output": True},
        {"dormant": 0.9, "role": Role.GATE},
        {"dormant": 1.0, "forward_rms": (0.0,) * 8},
        {"dormant": None},
    ],
    ids=["dead", "partly dead", "four units", "output", "gate", "all zeros", "unknown"],
)
def test_no_finding(changed: dict[str, Any]) -> None:
    assert check(**changed) is None


def test_few_observations_say_nothing() -> None:
    assert isinstance(check(dormant=0.9, observations=64), Skipped)
