"""What every rule promises: it finds its fault, is silent on the healthy twin, and says why."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import re
from typing import Any

import pytest
import torch

from gradscope import registry
from gradscope.discovery import summary
from gradscope.pipeline import scan
from gradscope.profile import profile_steps
from gradscope.records import Finding, Profile
from gradscope.rules import Rule, describe_limits

SEEDS = range(5)

SECTIONS = ["What it does", "Why it is bad", "When it is wrong", "References"]

# Codes that the design has given out.
PLANNED = {
    *("GS101", "GS102", "GS103", "GS104", "GS105"),
    *("GS201", "GS202", "GS203", "GS204", "GS205", "GS206"),
    *("GS301", "GS302", "GS303", "GS304", "GS401", "GS402"),
    *("GS501", "GS502", "GS503", "GS504", "GS505"),
    *("GS601", "GS602", "GS603", "GS701", "GS702", "GS703"),
}

RULES = [pytest.param(rule, id=rule.name) for rule in registry.rules().values()]


def profile_of(rule: Rule[Any], subject: str = "bad") -> Profile:
    chosen = getattr(rule, subject)()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = chosen.build_model()
    return profile_steps(
        model,
        chosen.build_data(),
        chosen.step,
        build_optimizer=chosen.build_optimizer,
        steps=rule.example_steps,
    )


def test_every_rule_of_the_design_is_there() -> None:
    assert set(registry.rules()) == PLANNED


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_finds_its_fault_whatever_the_seed(rule: Rule[Any], seed: int) -> None:
    assert rule.code in {
        finding.code for finding in scan(rule.bad(), seed=seed, steps=rule.example_steps).findings
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_silent_on_the_healthy_twin(rule: Rule[Any], seed: int) -> None:
    report = scan(rule.good(), seed=seed, steps=rule.example_steps)
    assert [finding.message for finding in report.findings] == []
    assert rule.code not in {skip.what for skip in report.skipped}, "silent, but it did not look"


@pytest.mark.parametrize("rule", RULES)
def test_a_page_has_all_sections_and_none_is_empty(rule: Rule[Any]) -> None:
    assert summary(rule)
    parts = re.split(r"^## (.+)$", inspect.cleandoc(type(rule).__doc__ or ""), flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    assert all(text.strip() for text in parts[2::2])


@pytest.mark.parametrize("rule", RULES)
def test_remedies_that_a_page_names_are_there(rule: Rule[Any]) -> None:
    named = re.findall(r"\bremedy[\s`]+([a-z]+(?:-[a-z]+)+)", inspect.getdoc(rule) or "")
    assert set(named) <= set(registry.remedies())


@pytest.mark.parametrize("rule", RULES)
def test_limits_are_numbers_with_unit_and_source(rule: Rule[Any]) -> None:
    described = list(describe_limits(rule.limits))
    assert described
    for name, value, unit, source in described:
        assert math.isfinite(value), name
        assert unit.strip(), name
        assert source.strip() not in ("", "design"), name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(rule.limits, described[0][0], 1.0)


@pytest.mark.parametrize("rule", RULES)
def test_names_have_their_form(rule: Rule[Any]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)


@pytest.mark.parametrize("rule", RULES)
def test_causes_are_other_rules(rule: Rule[Any]) -> None:
    assert set(rule.explained_by) <= PLANNED - {rule.code}


@pytest.mark.parametrize("rule", RULES)
def test_checking_changes_nothing_and_repeats(rule: Rule[Any]) -> None:
    profile = profile_of(rule)
    before, limits = copy.deepcopy(profile), copy.deepcopy(rule.limits)
    state = torch.get_rng_state()
    first, second = rule.check(profile, rule.limits), rule.check(profile, rule.limits)
    assert repr(first) == repr(second)
    assert repr(profile) == repr(before)  # repr(): NaN equals itself in it
    assert rule.limits == limits
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rule", RULES)
def test_subjects_come_out_the_same_each_time(rule: Rule[Any]) -> None:
    for which in ("bad", "good"):
        assert repr(profile_of(rule, which)) == repr(profile_of(rule, which))


@pytest.mark.parametrize("rule", RULES)
def test_a_finding_names_places_numbers_and_limits(rule: Rule[Any]) -> None:
    profile = profile_of(rule)
    finding = rule.check(profile, rule.limits)
    assert isinstance(finding, Finding)
    places = {site.name for site in profile.sites} | {entry.name for entry in profile.parameters}
    assert finding.sites
    assert set(finding.sites) <= places
    assert (finding.code, finding.name) == (rule.code, rule.name)
    assert re.search(r"\d", finding.message)
    assert finding.message.endswith(".")
    assert any(measure.limit is not None for measure in finding.evidence.values())
    assert {measure.source for measure in finding.evidence.values()} == {profile.source}
