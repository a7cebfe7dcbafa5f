"""GS103: which parameters without a gradient are a fault, and which look set aside by intent."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import Finding, ParameterProfile, Severity, SiteProfile, Skipped
from gradscope.rules.no_gradient import NoGradient
from tests.gradscope.rules.making import layer, parameter, profile

RULE = NoGradient()

UNREACHED = {"backward_rms": (math.nan,) * 8}
TOKENS = {"shape": (64, 16, 32)}


def silent(name: str) -> ParameterProfile:
    return parameter(f"{name}.weight", gradient_norm=(None,) * 8)


def severity(sites: list[SiteProfile], *names: str) -> Severity | None:
    """With those modules' weights silent and everything else learning."""
    learning = [parameter(f"{site.name}.weight") for site in sites if site.name not in names]
    parameters = (*map(silent, names), *learning)
    found = RULE.check(profile(*sites, parameters=parameters), RULE.limits)
    assert not isinstance(found, Skipped)
    if found is None:
        return None
    assert found.sites == tuple(f"{name}.weight" for name in names)
    return found.severity


def test_a_trunk_that_is_cut_off() -> None:
    sites = [layer("trunk", 0, **UNREACHED), layer("head", 1)]
    assert severity(sites, "trunk") is Severity.ERROR


def test_a_branch_that_is_cut_off() -> None:
    sites = [layer("stem", 0), layer("a", 1, **UNREACHED), layer("b", 2, **UNREACHED)]
    assert severity([*sites, layer("head", 3)], "a", "b") is Severity.ERROR


@pytest.mark.parametrize(
    ("sites", "name"),
    [
        ([layer("stem", 0), layer("last", 1, **UNREACHED), layer("head", 2)], "last"),
        (
            [
                layer("stem", 0, **TOKENS),
                layer("pooled", 1, **UNREACHED),
                layer("head", 2, **TOKENS),
            ],
            "pooled",
        ),
        (
            [
                layer("stem", 0),
                layer("one", 1, is_output=True),
                layer("other", 2, is_output=True, **UNREACHED),
            ],
            "other",
        ),
    ],
    ids=["a single layer", "fewer axes", "another output"],
)
def test_what_looks_set_aside_gets_a_remark(sites: list[SiteProfile], name: str) -> None:
    assert severity(sites, name) is Severity.INFO


def test_without_any_gradient_everything_is_cut_off() -> None:
    sites = [layer("stem", 0, **UNREACHED), layer("head", 1, is_output=True, **UNREACHED)]
    assert severity(sites, "stem", "head") is Severity.ERROR


def test_a_model_of_which_everything_is_frozen() -> None:
    frozen = [parameter(name, trainable=False) for name in ("0.weight", "2.weight")]
    finding = RULE.check(profile(parameters=tuple(frozen)), RULE.limits)
    assert isinstance(finding, Finding)
    assert finding.message == "All 2 parameters of the model are frozen."


def check(*parameters: ParameterProfile, **changed: Any) -> Finding | Skipped | None:
    return RULE.check(profile(parameters=parameters, **changed), RULE.limits)


def test_zeros_count_only_where_updates_are_made() -> None:
    zero = parameter("2.weight", gradient_norm=(0.0,) * 8)
    assert isinstance(check(parameter(), zero), Finding)
    assert check(parameter(), zero, optimizer=None) is None


def test_no_finding() -> None:
    frozen = parameter("2.weight", trainable=False, gradient_norm=(None,) * 8)
    elsewhere = parameter("3.weight", reached=False, gradient_norm=(None,) * 8)
    cancels = parameter("0.bias", shape=(32,), gradient_norm=(0.0,) * 8)
    assert check(parameter(), frozen, elsewhere, cancels) is None
    assert isinstance(check(silent("0"), losses=(0.0,) * 8), Skipped)
