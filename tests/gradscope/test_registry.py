"""Rules and remedies are found, in order, and by the names that people type."""

from __future__ import annotations

import pytest

from gradscope import registry
from gradscope.errors import PluginError, UsageError


def test_rules_are_in_order_of_code_and_remedies_of_name() -> None:
    assert list(registry.rules()) == sorted(rule.code for rule in registry.rules().values())
    assert list(registry.remedies()) == sorted(entry.name for entry in registry.remedies().values())
    assert len(registry.rules()) >= 7
    assert len(registry.remedies()) >= 5


@pytest.mark.parametrize("key", ["GS201", "gs201", "dead-relu", "Dead-ReLU"])
def test_a_rule_is_found_by_code_or_name(key: str) -> None:
    assert registry.rule(key).code == "GS201"


@pytest.mark.parametrize("key", ["GS2", "GS999", "", "relu"])
def test_an_unknown_rule_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=rf"no rule '{key}'; .*'gradscope rule' lists all"):
        registry.rule(key)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("ded-relu", "GS201 dead-relu"), ("GS1O1", "GS101 vanishing-gradient")],
)
def test_the_nearest_rule_is_named(key: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"the nearest is {nearest}"):
        registry.rule(key)


def test_a_remedy_is_found_by_name() -> None:
    assert registry.remedy("Norm-Insertion").name == "norm-insertion"
    with pytest.raises(UsageError, match=r"no remedy 'norm'; the nearest is norm-insertion"):
        registry.remedy("norm")


def test_rules_are_meant_by_code_name_and_prefix() -> None:
    everything = list(registry.rules())
    assert registry.matching(["GS2"]) == {code for code in everything if code.startswith("GS2")}
    assert registry.matching(["gs2"]) == registry.matching(["GS2"])
    assert registry.matching(["dead-relu", "GS101"]) == {"GS101", "GS201"}
    assert registry.matching(["GS1", "GS101"]) == registry.matching(["GS1"])
    assert registry.matching("GS101") == {"GS101"}, "a word is one key, not its letters"
    assert registry.matching([]) == set()


@pytest.mark.parametrize("wrong", ["GS9", "vanishing", "", " "])
def test_what_matches_no_rule_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="There is no rule"):
        registry.matching(["GS101", wrong])


def test_what_explains_what_and_what_treats_it() -> None:
    dead = registry.rule("GS201")
    assert dead in registry.causes_of("GS101")
    assert registry.rule("GS101") in registry.consequences_of("GS201")
    assert "artificial-derivative" in [remedy.name for remedy in registry.treating("GS201")]


def test_registering_twice_is_refused() -> None:
    rule = registry.rule("GS101")
    with pytest.raises(PluginError, match=r"both have the code 'GS101'"):
        registry._unique([rule, rule], "code")
