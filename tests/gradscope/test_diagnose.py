"""Diagnosis: which rules run, what explains what, and in which order it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import gradscope
from gradscope import registry
from gradscope.diagnose import diagnose
from gradscope.errors import UsageError
from gradscope.profile import profile_steps
from gradscope.records import Finding, Profile, Severity, Skipped
from gradscope.rules import Rule


@dataclass(frozen=True)
class Fixed(Rule[Any]):  # type: ignore[misc]
    """A rule that always says the same."""

    code: str  # type: ignore[misc]
    severity: Severity | None = Severity.ERROR
    explained_by: tuple[str, ...] = ()  # type: ignore[misc]
    skips: bool = False
    since: int = 0
    acts_after_update: bool = False  # type: ignore[misc]
    whole: bool = False  # type: ignore[misc]
    limits: None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"fault-{self.code}"

    def check(self, profile: Profile, limits: Any) -> Finding | Skipped | None:
        if self.skips:
            return Skipped(self.code, "it cannot know")
        if self.severity is None:
            return None
        return self.finding(self.severity, ["0"], "It is so.", {}, since=self.since)

    def bad(self) -> Any: ...

    def good(self) -> Any: ...


def profile_of(code: str) -> Profile:
    subject = registry.rule(code).bad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = subject.build_model()
    return profile_steps(model, subject.build_data(), subject.step)


PROFILE = profile_of("GS101")


def order(monkeypatch: pytest.MonkeyPatch, *rules: Fixed) -> list[tuple[str, str | None]]:
    by_code: dict[str, Rule[Any]] = {rule.code: rule for rule in rules}
    monkeypatch.setattr(registry, "rules", lambda: by_code)
    return [(finding.code, finding.cause) for finding in diagnose(PROFILE)]


def test_a_deep_sigmoid_stack_collapses_first_and_vanishes_because_of_it() -> None:
    findings = diagnose(PROFILE, select=["GS101", "GS204"])
    assert [(finding.code, finding.cause) for finding in findings] == [
        ("GS204", None),
        ("GS101", "GS204"),
    ]
    assert findings.codes == {"GS101", "GS204"}
    assert findings.profile is PROFILE
    assert len(findings) == 2
    assert "norm-insertion" in findings.items[0].remedies
    assert "artificial-derivative" in findings.items[1].remedies


def test_every_remedy_named_treats_the_fault() -> None:
    for finding in diagnose(PROFILE):
        assert finding.remedies == tuple(
            name for name, remedy in registry.remedies().items() if finding.code in remedy.treats
        )


def test_a_cause_that_was_not_selected_is_not_named() -> None:
    (finding,) = diagnose(PROFILE, select=["GS101"])
    assert (finding.code, finding.cause) == ("GS101", None)
    left = diagnose(PROFILE, select=["GS1", "GS2"], ignore=["vanishing-gradient"])
    assert [found.code for found in left] == ["GS204"]


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(UsageError, match="There is no rule 'GS9'"):
        diagnose(PROFILE, select=["GS9"])
    with pytest.raises(UsageError, match="There is no rule 'nonsense'"):
        diagnose(PROFILE, ignore=["nonsense"])


def test_the_worst_root_comes_first_with_what_it_explains_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert order(
        monkeypatch,
        Fixed("A", Severity.WARNING),
        Fixed("B", explained_by=("A",)),
        Fixed("C", Severity.INFO),
        Fixed("D"),
        Fixed("E", explained_by=("B",)),
    ) == [("D", None), ("A", None), ("B", "A"), ("E", "B"), ("C", None)]


def test_the_most_fundamental_cause_that_was_found_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = [
        Fixed("A", None),
        Fixed("B", skips=True),
        Fixed("C"),
        Fixed("D"),
        Fixed("E", explained_by=("A", "B", "C", "D")),
    ]
    assert order(monkeypatch, *rules) == [("C", None), ("E", "C"), ("D", None)]


def test_what_shows_later_is_no_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [
        Fixed("A", since=3),
        Fixed("B", since=2, explained_by=("A",)),
        Fixed("C", since=3, explained_by=("A",)),
    ]
    assert order(monkeypatch, *rules) == [("B", None), ("A", None), ("C", "A")]


def test_of_two_roots_the_one_that_shows_first_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert order(monkeypatch, Fixed("A", since=3), Fixed("B")) == [("B", None), ("A", None)]


def test_an_update_explains_nothing_in_the_step_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [
        Fixed("A", acts_after_update=True),
        Fixed("B", explained_by=("A",)),
        Fixed("C", since=1, explained_by=("A",)),
        Fixed("D", explained_by=("A",), whole=True),
    ]
    assert order(monkeypatch, *rules) == [("A", None), ("D", "A"), ("C", "A"), ("B", None)]


def test_of_two_faults_of_the_updates_one_explains_the_other_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = [
        Fixed("A", acts_after_update=True),
        Fixed("B", acts_after_update=True, explained_by=("A",)),
    ]
    assert order(monkeypatch, *rules) == [("A", None), ("B", "A")]


def test_a_root_counts_by_the_worst_of_its_consequences(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [
        Fixed("A", Severity.WARNING),
        Fixed("B", Severity.INFO),
        Fixed("C", explained_by=("B",)),
    ]
    assert order(monkeypatch, *rules) == [("B", None), ("C", "B"), ("A", None)]


def test_nothing_found_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [Fixed(letter, explained_by=(chr(ord(letter) - 1),)) for letter in "BCDEFG"]
    assert len(order(monkeypatch, *rules)) == 6


def test_what_rules_skip_is_kept_beside_what_the_profile_skipped() -> None:
    layer = nn.Sequential(nn.Linear(4, 2))
    profile = gradscope.profile(layer, [torch.randn(8, 4)], lambda output, _: output.mean())
    said = diagnose(profile).skipped
    assert said[: len(profile.skipped)] == profile.skipped
    assert {"GS101", "GS102"} <= {skip.what for skip in said}
    assert all(skip.reason for skip in said)


def test_made_up_inputs_are_not_judged_by_rules_that_need_data() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    subject = gradscope.Subject.of(model, None, lambda output, _: output.sum())
    skipped = [skip.what for skip in gradscope.scan(subject).skipped]
    needing = [rule.code for rule in registry.rules().values() if rule.needs_data]
    assert len(needing) == 10
    assert set(needing) <= set(skipped)
    assert len(skipped) == len(set(skipped))
