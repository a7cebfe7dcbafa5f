"""GS202: bounded activations in their flat parts, and since when they have been there."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gradscope.diagnose import diagnose
from gradscope.records import Finding, Role, Severity, SiteProfile, Skipped, Source
from gradscope.rules.saturated_activation import SaturatedActivation
from tests.gradscope.rules.making import layer, parameter, profile, site

RULE = SaturatedActivation()

GROWN = (0.1, 0.2, 0.6, 0.95, 1.0, 1.0, 1.0, 1.0)


def bounded(name: str = "1", index: int = 1, **changed: Any) -> SiteProfile:
    """A tanh at which most units are saturated."""
    entries: dict[str, Any] = {"operator": "Tanh", "dead": None, "always_positive": None}
    return site(name, index, **(entries | {"saturated": 0.7} | changed))


def check(*sites: SiteProfile, **changed: Any) -> Finding | Skipped | None:
    made = profile(layer("0", 0), *sites, layer("9", 9, is_output=True), **changed)
    return RULE.check(made, RULE.limits)


@pytest.mark.parametrize("operator", ["Tanh", "Sigmoid", "Hardtanh", "Softsign", "sigmoid"])
def test_whatever_is_bounded_is_judged_and_named(operator: str) -> None:
    finding = check(bounded(operator=operator))
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.sites) == (Severity.ERROR, ("1",))
    assert finding.message.startswith(f"70% of the 32 units at 1 ({operator}) are saturated")
    measure = finding.evidence["saturated units, worst site"]
    assert (measure.value, measure.limit) == (0.7, RULE.limits.error)


@pytest.mark.parametrize(
    "changed",
    [
        {"saturated": 0.5},
        {"saturated": None, "operator": "GELU"},
        {"role": Role.GATE},
        {"is_output": True},
        {"forward_nonfinite": (*(0,) * 7, 1)},
    ],
    ids=["at the limit", "not bounded", "gate", "output", "not finite"],
)
def test_no_finding(changed: dict[str, Any]) -> None:
    assert check(bounded(**changed)) is None


def test_the_worst_site_leads_and_all_are_counted() -> None:
    found = check(
        bounded("1", 1, saturated=0.6, forward_rms=GROWN),
        bounded("2", 2, saturated=1.0),
        bounded("3", 3, saturated=0.1),
        site("4", 4),
    )
    assert isinstance(found, Finding)
    assert (found.sites, found.since) == (("1", "2"), 0)
    assert found.message.startswith("100% of the 32 units at 2")
    assert found.message.endswith("2 of 3 bounded activations are affected.")


def test_units_have_to_be_seen_often_enough() -> None:
    skipped = check(bounded(observations=1999))
    assert isinstance(skipped, Skipped)
    assert "1999 samples and positions, 2000 are needed" in skipped.reason
    one = check(bounded(observations=1999), bounded("2", 2))
    assert isinstance(one, Finding)
    assert one.sites == ("2",)


def test_limits_are_those_in_force() -> None:
    made = profile(bounded())
    assert RULE.check(made, replace(RULE.limits, error=0.7)) is None
    assert isinstance(RULE.check(made, replace(RULE.limits, observations=1e4)), Skipped)


@pytest.mark.parametrize(
    ("rms", "since"),
    [((1.0,) * 8, 0), (GROWN, 3), ((2.0,) * 4 + (1.0,) * 4, 0), ((0.89,) * 7 + (1.0,), 7)],
    ids=["from the start", "as it grows", "falls", "at the end"],
)
def test_it_begins_where_outputs_are_as_large_as_at_the_end(
    rms: tuple[float, ...], since: int
) -> None:
    finding = check(bounded(forward_rms=rms))
    assert isinstance(finding, Finding)
    assert finding.since == since


def test_evidence_from_made_up_inputs_says_so() -> None:
    finding = check(bounded(), source=Source.SYNTHETIC)
    assert isinstance(finding, Finding)
    assert {measure.source for measure in finding.evidence.values()} == {Source.SYNTHETIC}


@pytest.mark.parametrize(
    ("rms", "norm", "cause"),
    [
        (GROWN, 4.0, "GS301"),
        ((1.0,) * 8, 4.0, None),
        (GROWN, 6 * math.sqrt(32), "GS303"),
        ((1.0,) * 8, 6 * math.sqrt(32), "GS303"),
    ],
    ids=["later", "before any update", "later, of large weights", "at once, of large weights"],
)
def test_updates_explain_what_begins_after_them(
    rms: tuple[float, ...], norm: float, cause: str | None
) -> None:
    weights = [
        parameter(f"{name}.weight", weight_norm=norm, update_ratio=(0.9,) * 8) for name in (0, 2)
    ]
    made = profile(
        layer("0", 0, forward_rms=(50.0,) * 8),
        bounded(forward_rms=rms),
        layer("2", 2, forward_rms=(50.0,) * 8, is_output=True),
        parameters=tuple(weights),
        losses_after=tuple(3.0 + step for step in range(8)),
    )
    findings = diagnose(made, select=["GS202", "GS301", "GS303"])
    assert {finding.code: finding.cause for finding in findings}["GS202"] == cause
