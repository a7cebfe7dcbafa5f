"""What settings do: other limits, fewer rules, sites that a rule does not see."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import gradscope
from gradscope import registry
from gradscope.config import Settings
from gradscope.configured import configured, rules_to_run
from gradscope.diagnose import diagnose
from gradscope.errors import ConfigError, UsageError
from gradscope.pipeline import repair, scan
from gradscope.profile import profile_steps
from gradscope.randomness import preserved_randomness
from gradscope.records import Profile, Report, Status


def profile_of(code: str) -> Profile:
    rule = registry.rule(code)
    subject = rule.bad()
    with preserved_randomness(0):
        model = subject.build_model()
    return profile_steps(
        model,
        subject.data(),
        subject.step,
        build_optimizer=subject.build_optimizer,
        steps=rule.steps,
    )


DEAD = profile_of("GS201")
(FOUND,) = diagnose(DEAD, select=["GS201"])
SITES = FOUND.sites


def codes(
    settings: Settings, select: list[str] | None = None, ignore: list[str] | None = None
) -> list[str]:
    return [entry.rule.code for entry in rules_to_run(settings, select, ignore)]


# --- Which rules run --------------------------------------------------------------------------


def test_the_settings_select_and_ignore() -> None:
    everything = list(registry.rules())
    assert codes(Settings()) == everything
    assert codes(Settings(select=("GS201", "vanishing-gradient"))) == ["GS101", "GS201"]
    assert codes(Settings(ignore=("GS201",))) == [code for code in everything if code != "GS201"]
    assert codes(Settings(select=("GS2",), ignore=("dead-relu",))) == [
        code for code in everything if code.startswith("GS2") and code != "GS201"
    ]


def test_a_selection_beside_the_settings_starts_afresh() -> None:
    settings = Settings(select=("GS1",), ignore=("GS201",))
    assert codes(settings, select=["GS201"]) == ["GS201"]
    assert codes(settings, select=["GS201", "GS202"], ignore=["GS202"]) == ["GS201"]


def test_what_is_ignored_beside_the_settings_comes_on_top() -> None:
    settings = Settings(select=("GS101", "GS102", "GS201"), ignore=("GS201",))
    assert codes(settings, ignore=["GS102"]) == ["GS101"]


# --- Limits -----------------------------------------------------------------------------------


def test_a_limit_replaces_the_default_alone() -> None:
    entry = configured(Settings(limits={"dead-relu": {"warning": 0.25}}))["GS201"]
    assert entry.limits == replace(entry.rule.limits, warning=0.25)
    assert entry.changed == {"warning"}
    untouched = configured(Settings())["GS201"]
    assert untouched.limits == registry.rule("GS201").limits
    assert untouched.changed == frozenset()


def test_a_finding_shows_the_limit_in_force() -> None:
    (finding,) = diagnose(
        DEAD, select=["GS201"], settings=Settings(limits={"GS201": {"error": 0.9}})
    )
    assert 0.9 in {measure.limit for measure in finding.evidence.values()}


def test_a_limit_out_of_reach_silences_a_rule() -> None:
    settings = Settings(limits={"gs201": {"warning": 2.0}})
    assert diagnose(DEAD, select=["GS201"], settings=settings).codes == set()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(select=("GS9",)), "select is wrong: there is no rule 'GS9'; the nearest is"),
        (Settings(ignore=("ded-relu",)), "ignore is wrong: .*the nearest is GS201 dead-relu"),
        (Settings(limits={"ded-relu": {}}), "rules is wrong: .*the nearest is GS201 dead-relu"),
        (Settings(limits={"GS2": {}}), "rules is wrong: there is no rule 'GS2'"),
        (
            Settings(limits={"dead-relu": {"warnin": 1}}),
            r"rules\.dead-relu has no limit 'warnin'; the nearest is 'warning' \(there are warning",
        ),
        (
            Settings(limits={"dead-relu": {}, "GS201": {"error": 1}}),
            r"rules\.GS201 is a second table for GS201",
        ),
        (
            Settings(ignored_sites={"a.*": ("magic",)}),
            r'ignore-sites\."a\.\*" is wrong: there is no rule \'magic\'',
        ),
    ],
)
def test_what_there_is_not_is_named(settings: Settings, said: str) -> None:
    message = rf"^the settings: tool\.gradscope\.{said}"
    with pytest.raises(ConfigError, match=message):
        diagnose(DEAD, settings=settings)
    with pytest.raises(ConfigError, match=message):
        diagnose(DEAD, select=["GS101"], settings=settings)


def test_what_an_argument_names_is_no_error_of_the_settings() -> None:
    with pytest.raises(UsageError) as raised:
        diagnose(DEAD, select=["GS9"], settings=Settings())
    assert not isinstance(raised.value, ConfigError)


# --- Sites that a rule is not shown -----------------------------------------------------------


def ignoring(**patterns: str) -> Settings:
    return Settings(ignored_sites={pattern: (code,) for code, pattern in patterns.items()})


def test_a_rule_does_not_see_what_is_ignored_for_it() -> None:
    assert len(SITES) > 1
    (fewer,) = diagnose(DEAD, select=["GS201"], settings=ignoring(GS201=SITES[0]))
    assert fewer.sites == SITES[1:]
    none = diagnose(DEAD, select=["GS201"], settings=ignoring(GS201="*"))
    assert none.codes == set()
    assert none.profile is DEAD


def test_other_rules_see_it_all_the_same() -> None:
    (finding,) = diagnose(DEAD, select=["GS201"], settings=ignoring(GS202="*"))
    assert finding == FOUND


def test_parameters_are_ignored_as_sites_are() -> None:
    silent = profile_of("GS103")
    (finding,) = diagnose(silent, select=["GS103"])
    assert diagnose(silent, select=["GS103"], settings=ignoring(GS103="trunk.*")).codes == set()
    (rest,) = diagnose(silent, select=["GS103"], settings=ignoring(GS103="trunk.bias"))
    assert rest.sites == tuple(name for name in finding.sites if name != "trunk.bias")


@pytest.mark.parametrize("pattern", [SITES[0][:-1], f"{SITES[0]}.*", "nowhere", "[!0-9]"])
def test_a_pattern_matches_whole_names(pattern: str) -> None:
    (finding,) = diagnose(DEAD, select=["GS201"], settings=ignoring(GS201=pattern))
    assert SITES[0] in finding.sites


def test_what_was_left_out_is_said() -> None:
    settings = ignoring(GS201=SITES[0], GS101="nowhere")
    skipped = diagnose(DEAD, select=["GS201", "GS101"], settings=settings).skipped
    said = [skip for skip in skipped if " at " in skip.what]
    assert [(skip.what, skip.reason) for skip in said] == [
        (f"GS201 at {SITES[0]}", "the settings ignore it there")
    ]


@pytest.mark.parametrize("code", registry.rules())
def test_no_rule_fails_on_a_part_of_a_profile(code: str) -> None:
    """Whatever it expects beside what it is shown may be ignored."""
    profile = profile_of(code)
    names = [entry.name for entry in (*profile.sites, *profile.parameters)]
    patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in names]
    for pattern in (*patterns, "*", "*[!0]", "*.weight", "*.bias"):
        diagnose(profile, select=[code], settings=ignoring(**{code: pattern}))


# --- From end to end --------------------------------------------------------------------------


def test_a_scan_works_under_settings() -> None:
    bad = registry.rule("GS201").bad()
    assert [finding.code for finding in scan(bad, select=["GS201"]).findings] == ["GS201"]
    report = scan(bad, settings=Settings(select=("GS201",), limits={"GS201": {"warning": 2.0}}))
    assert report.findings == ()
    assert report.environment["settings"] == "given in Python"
    assert "settings" not in scan(bad, select=["GS201"], settings=Settings()).environment


def test_arguments_may_be_iterators() -> None:
    report = scan(registry.rule("GS201").bad(), select=iter(["GS201"]))
    assert [finding.code for finding in report.findings] == ["GS201"]


def test_settings_that_cannot_be_meant_are_told_before_the_model_runs() -> None:
    def fail() -> None:
        raise AssertionError("the model was built")

    subject = replace(registry.rule("GS201").bad(), build_model=fail)
    with pytest.raises(ConfigError, match="magic"):
        scan(subject, settings=Settings(select=("magic",)))
    with pytest.raises(UsageError, match="magic"):
        repair(subject, select=["magic"])


@pytest.mark.parametrize(("warning", "found"), [(1e-30, False), (1e30, True)])
def test_a_repaired_model_is_judged_under_the_same_settings(warning: float, found: bool) -> None:
    """Of a model that cannot be repaired to a ratio of 1e30, the finding remains."""
    report: Report = gradscope.fix(
        registry.rule("GS101").bad(),
        unsafe=True,
        only=["norm-insertion"],
        budget=0.5,
        seeds=5,
        select=["GS101", "GS204"],
        settings=Settings(limits={"GS101": {"warning": warning}}),
    )
    assert report.verdict is not None
    assert report.verdict.status is not Status.NOTHING_TO_FIX
    assert ("GS101" in report.verdict.remaining) is found
