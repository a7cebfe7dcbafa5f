"""GS201: which dead units are a fault, beside those that chance or other sites account for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gradscope.diagnose import diagnose
from gradscope.records import Finding, Role, Severity, SiteProfile, Skipped, Source
from gradscope.rules.dead_relu import DeadReLU
from tests.gradscope.rules.making import layer, parameter, profile, site

RULE = DeadReLU()

FOUR = {"shape": (64, 4), "dead": 1.0}
"""A gate of four units: the toss of a coin makes all of them dead once in sixteen times."""

SAME = {"variation": (1e-6,) * 8}


def check(*sites: SiteProfile, **changed: Any) -> Finding | Skipped | None:
    return RULE.check(profile(*sites, **changed), RULE.limits)


def between(**changed: Any) -> tuple[SiteProfile, ...]:
    """A ReLU with layers around it."""
    return layer("0", 0), site("1", 1, **changed), layer("2", 2, is_output=True)


@pytest.mark.parametrize(
    ("dead", "positive", "severity", "bound"),
    [
        (0.5, 0.0, None, None),
        (0.51, 0.0, Severity.WARNING, 0.5),
        (0.8, 0.0, Severity.WARNING, 0.5),
        (0.81, 0.0, Severity.ERROR, 0.8),
        (0.9, 0.4, None, None),
        (0.9, 0.1, Severity.WARNING, 0.5),
        (0.0, 0.9, None, None),
    ],
)
def test_dead_units_less_those_always_positive(
    dead: float, positive: float, severity: Severity | None, bound: float | None
) -> None:
    finding = check(*between(dead=dead, always_positive=positive))
    if severity is None:
        assert finding is None
        return
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.sites, finding.since) == (severity, ("1",), 0)
    measure = finding.evidence["dead less always positive units, worst site"]
    assert measure.value == pytest.approx(dead - positive)
    assert measure.limit == bound


def test_the_worst_site_leads_and_all_are_counted() -> None:
    found = check(
        site("a", 0, dead=0.6),
        site("b", 1, dead=0.9, always_positive=0.05),
        site("c", 2, shape=(64, 96), dead=0.1),
    )
    assert isinstance(found, Finding)
    assert found.sites == ("a", "b")
    assert found.message.startswith("90% of the 32 units at b are never positive, 5% always")
    assert found.message.endswith("2 of 3 ReLU sites are affected.")
    dead = found.evidence["dead units, all sites"].value
    assert dead == pytest.approx((0.6 * 32 + 0.9 * 32 + 0.1 * 96) / 160)


def test_four_dead_units_may_be_chance_and_five_are_not() -> None:
    assert check(*between(**FOUR)) is None
    assert isinstance(check(*between(**FOUR | {"shape": (64, 5)})), Finding)
    settled = {"shape": (64, 8), "dead": 6 / 8, "always_positive": 1 / 8}
    assert check(*between(**settled)) is None, "six of seven, at 0.0625"
    assert isinstance(check(*between(**settled | {"always_positive": 0.0})), Finding)


@pytest.mark.parametrize(
    ("behind", "found"),
    [
        ((layer("2", 2, **SAME),), True),
        ((), True),
        ((layer("2", 2, **SAME), layer("3", 3)), False),
        ((layer("2", 2, variation=(*(1e-6,) * 5, *(0.5,) * 3)),), True),
        ((layer("2", 2, variation=(*(1e-6,) * 3, *(0.5,) * 5)),), False),
    ],
    ids=["nothing differs", "nothing behind", "passed by", "most steps", "some steps"],
)
def test_what_cuts_everything_off_is_found_where_chance_did_it_too(
    behind: tuple[SiteProfile, ...], found: bool
) -> None:
    sites = (layer("0", 0), site("1", 1, **FOUR), *behind)
    assert isinstance(check(*sites), Finding) is found


def test_limits_are_those_in_force() -> None:
    made = profile(*between(dead=0.6))
    for name, value in (("warning", 0.7), ("observations", 1e4), ("p_value", 0.0)):
        assert not isinstance(RULE.check(made, replace(RULE.limits, **{name: value})), Finding)
    strict = RULE.check(made, replace(RULE.limits, error=0.55))
    assert isinstance(strict, Finding)
    assert strict.severity is Severity.ERROR


def test_units_have_to_be_seen_often_enough() -> None:
    seldom = {"dead": 1.0, "observations": 1999}
    skipped = check(*between(**seldom))
    assert isinstance(skipped, Skipped)
    assert "1999 samples and positions, 2000 are needed" in skipped.reason
    assert check(site("a", 0, **seldom), site("b", 1)) is None, "the one that was is judged"


@pytest.mark.parametrize(
    "changed",
    [
        {"dead": None, "always_positive": None, "operator": "GELU"},
        {"dead": 1.0, "role": Role.GATE},
        {"dead": 1.0, "forward_nonfinite": (*(0,) * 7, 1)},
    ],
    ids=["no dead zone", "gate", "not finite"],
)
def test_what_is_not_judged(changed: dict[str, Any]) -> None:
    assert check(*between(**changed)) is None


def test_evidence_from_made_up_inputs_says_so() -> None:
    finding = check(*between(dead=0.9), source=Source.SYNTHETIC)
    assert isinstance(finding, Finding)
    assert {measure.source for measure in finding.evidence.values()} == {Source.SYNTHETIC}


def test_weights_drawn_too_large_explain_it_and_updates_do_not() -> None:
    """Dead units are counted over all steps together, so they may have been there before any."""
    sites = [replace(each, forward_rms=(50.0,) * 8) for each in between(dead=0.9)]
    large = [
        parameter(f"{name}.weight", weight_norm=6 * math.sqrt(32), update_ratio=(0.9,) * 8)
        for name in (0, 2)
    ]
    harmed = tuple(3.0 + step for step in range(8))
    made = profile(*sites, parameters=tuple(large), losses_after=harmed)
    causes = {
        others: {finding.code: finding.cause for finding in diagnose(made, select=others)}
        for others in (("GS201", "GS301"), ("GS201", "GS303"), ("GS201", "GS301", "GS303"))
    }
    assert causes["GS201", "GS301"] == {"GS301": None, "GS201": None}
    assert causes["GS201", "GS303"] == {"GS303": None, "GS201": "GS303"}
    assert causes["GS201", "GS301", "GS303"]["GS201"] == "GS303"
