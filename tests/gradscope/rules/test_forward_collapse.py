"""GS204: samples that look the same along the trunk to the end."""

from __future__ import annotations

import math

import pytest

from gradscope.records import Finding, Role, SiteProfile, Skipped
from gradscope.rules.forward_collapse import ForwardCollapse
from tests.gradscope.rules.making import layer, parameter, profile, site

RULE = ForwardCollapse()

SAME = {"variation": (1e-5,) * 8}


def check(*sites: SiteProfile, **changed: object) -> Finding | Skipped | None:
    return RULE.check(profile(*sites, **changed), RULE.limits)


def test_collapse_to_the_end() -> None:
    finding = check(site("a", 0), site("b", 1, **SAME), layer("c", 2, **SAME))
    assert isinstance(finding, Finding)
    assert (finding.sites, finding.since) == (("b", "c"), 0)


def test_since_when() -> None:
    late = site("b", 1, variation=(0.5, 0.5, *(1e-6,) * 6))
    finding = check(site("a", 0), late)
    assert isinstance(finding, Finding)
    assert finding.since == 2


@pytest.mark.parametrize(
    "sites",
    [
        (site("a", 0, **SAME), site("b", 1)),
        (site("a", 0), site("b", 1, branch=True, **SAME)),
        (site("a", 0), site("b", 1, role=Role.GATE, **SAME)),
        (site("a", 0), site("b", 1, is_output=True, **SAME)),
        (site("b", 1, **SAME), site("norm", 2, role=Role.NORMALISATION)),
        (site("a", 0), site("b", 1, variation=(math.nan,) * 8)),
    ],
    ids=["before the end", "branch", "gate", "output", "normalised", "nan"],
)
def test_no_finding(sites: tuple[SiteProfile, ...]) -> None:
    assert check(*sites) is None


def test_a_layer_that_starts_at_zero_has_yet_to_speak() -> None:
    sites = site("a", 0), layer("gate", 1, variation=(0.0,) * 8)
    assert isinstance(check(*sites), Finding)
    assert check(*sites, parameters=(parameter("gate.weight", weight_norm=0.0),)) is None


def test_where_nothing_can_be_known() -> None:
    assert isinstance(check(site("a", 0, **SAME), batch_size=1), Skipped)
    assert isinstance(check(site("a", 0, branch=True)), Skipped)
    assert isinstance(check(site("a", 0, **SAME), input_variation=(0.0,) * 8), Skipped)


def test_inputs_that_are_no_numbers_are_measured_at_the_first_site() -> None:
    first = site("embed", 0, role=Role.EMBEDDING)
    assert isinstance(check(first, site("b", 1, **SAME), input_variation=()), Finding)
