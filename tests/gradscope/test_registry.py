"""Rules and remedies are found, in order, and by the names that people type."""

from __future__ import annotations

import pytest

from gradscope import registry
from gradscope.errors import GradscopeError, UsageError


def test_rules_are_in_order_of_code_and_remedies_of_name() -> None:
    assert list(registry.rules()) == sorted(rule.code for rule in registry.rules().values())
    assert list(registry.remedies()) == sorted(entry.name for entry in registry.remedies().values())
    assert len(registry.rules()) >= 7
    assert len(registry.remedies()) >= 5


@pytest.mark.parametrize("key", ["GS201", "gs201", "dead-relu", "Dead-ReLU"])
def test_a_rule_is_found_by_code_or_name(key: str) -> None:
    assert registry.rule(key).code == "GS201"


@pytest.mark.parametrize("key", ["GS2", "GS999", "", "relu"])
def test_an_unknown_rule_lists_those_there_are(key: str) -> None:
    with pytest.raises(UsageError, match=rf"no rule '{key}'; .*GS101 vanishing-gradient"):
        registry.rule(key)


def test_a_remedy_is_found_by_name() -> None:
    assert registry.remedy("Norm-Insertion").name == "norm-insertion"
    with pytest.raises(UsageError, match=r"no remedy 'magic'; there are activation-swap"):
        registry.remedy("magic")


def codes(select: list[str] | None, ignore: list[str] | None = None) -> list[str]:
    return [rule.code for rule in registry.chosen_rules(select, ignore)]


def test_rules_are_chosen_by_code_name_and_prefix() -> None:
    everything = list(registry.rules())
    assert codes(None) == everything
    assert codes(["GS2"]) == [code for code in everything if code.startswith("GS2")]
    assert codes(["gs2"]) == codes(["GS2"])
    assert codes(["dead-relu", "GS101"]) == ["GS101", "GS201"]
    assert codes(["GS1", "GS101"]) == codes(["GS1"])
    assert codes(None, ["GS1"]) == [code for code in everything if not code.startswith("GS1")]
    assert codes(["GS1"], ["vanishing-gradient"]) == [c for c in codes(["GS1"]) if c != "GS101"]
    assert codes(["GS"], ["GS"]) == []


@pytest.mark.parametrize("wrong", ["GS9", "vanishing", "", " "])
def test_what_matches_no_rule_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="There is no rule"):
        registry.chosen_rules([wrong])
    with pytest.raises(UsageError, match="There is no rule"):
        registry.chosen_rules(None, ["GS101", wrong])


def test_registering_twice_is_refused() -> None:
    rule = registry.rule("GS101")
    with pytest.raises(GradscopeError, match=r"both have the code 'GS101'"):
        registry._unique([rule, rule], "code")
