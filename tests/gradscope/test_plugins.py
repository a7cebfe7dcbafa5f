"""Plugins: what other packages register is found, and what cannot be used is an error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gradscope import registry
from gradscope.errors import PluginError

RULE = '''
from dataclasses import dataclass
from gradscope.rules import Rule, limit

@dataclass(frozen=True)
class Limits:
    most: float = limit(1.0, "units", "an example")

class Odd(Rule):
    """It is odd."""
    code, name, limits = "ACME1", "odd", Limits()
    def check(self, profile, limits): ...
    def bad(self): ...
    def good(self): ...
'''
REMEDY = '''
from gradscope.records import Change
from gradscope.remedies import Remedy

class Even(Remedy):
    """Make it even."""
    name, changes, treats = "even-out", (Change.TRAINING,), ("ACME1",)
    def propose(self, finding, profile, model): ...
'''
CACHED = (registry.rules, registry.remedies, registry._rules, registry._remedies)

Install = Callable[..., None]


def forget() -> None:
    for cached in CACHED:
        cached.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package with one module on the path, as installers leave it there."""

    def installed(name: str, source: str, *points: str, group: str = "rules") -> None:
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = (f"[gradscope.{group}]", *points, "")
        (info / "entry_points.txt").write_text("\n".join(lines))
        forget()

    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield installed
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    forget()


def test_rules_and_remedies_of_a_plugin_are_among_the_others(install: Install) -> None:
    install("plugged_rules", RULE, "p = plugged_rules")
    install("plugged_remedies", REMEDY, "p = plugged_remedies:Even", group="remedies")
    rule, remedy = registry.rule("odd"), registry.remedy("even-out")
    assert (rule.code, registry.origin(rule)) == ("ACME1", "plugged_rules 1.0")
    assert registry.origin(remedy) == "plugged_remedies 1.0"
    assert registry.treating("ACME1") == [remedy]
    assert registry.matching(["ACME"]) == {"ACME1"}
    assert list(registry.rules()) == sorted(registry.rules())
    assert registry.origin(registry.rule("GS201")) == registry.OWN


def test_a_module_may_gather_what_modules_inside_it_define(
    install: Install, tmp_path: Path
) -> None:
    (tmp_path / "gathering").mkdir()
    (tmp_path / "gathering" / "__init__.py").write_text("from gathering.odd import Odd\n")
    (tmp_path / "gathering" / "odd.py").write_text(RULE)
    install("gathering_info", "", "p = gathering")
    assert registry.rule("ACME1").name == "odd"


@pytest.mark.parametrize(
    ("source", "value", "fault"),
    [
        ("import no_such_module", "", "No module named 'no_such_module'"),
        ("raise SystemExit(3)", "", "sys.exit(3) was called"),
        ("1 / 0", "", "ZeroDivisionError"),
        (RULE, ":Missing", "has no attribute 'Missing'"),
        (RULE, ":limit", "neither a module nor a subclass of gradscope.rules.Rule"),
        (RULE, ":Limits", "neither a module nor a subclass of gradscope.rules.Rule"),
        ("from gradscope.rules.dead_relu import DeadReLU", "", "defines no subclass"),
        (RULE.replace("def bad", "def sick"), "", "defines no subclass"),
        (RULE.replace("def bad", "def sick"), ":Odd", "does not define bad"),
        (RULE + "    def __init__(self, needed): ...\n", "", "needed"),
        (RULE.replace('"ACME1"', '"acme1"'), "", "has the code 'acme1'"),
        (RULE.replace("code, name, limits =", "code, named, limits ="), "", "has the name None"),
        (RULE.replace("Limits()", "None"), "", "has no limits"),
        (RULE.replace('limit(1.0, "units", "an example")', "1.0"), "", "limit without unit"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(
    install: Install, source: str, value: str, fault: str
) -> None:
    install("broken", source, f"mine = broken{value}")
    with pytest.raises(PluginError) as raised:
        registry.rules()
    said = str(raised.value)
    assert said.startswith(f"broken 1.0 registers mine = 'broken{value}' in gradscope.rules, but ")
    assert fault in said
    assert said.endswith("; update or uninstall broken.")
    assert "\n" not in said
    assert raised.value.exit_status == 3


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('("ACME1",)', "()", "does not say what it treats"),
        ("(Change.TRAINING,)", "()", "does not say what it changes"),
        ('"even-out"', '"Even out"', "has the name 'Even out'"),
    ],
)
def test_a_remedy_that_cannot_be_used_is_named(
    install: Install, old: str, new: str, fault: str
) -> None:
    install("broken", REMEDY.replace(old, new), "mine = broken", group="remedies")
    with pytest.raises(PluginError, match=fault):
        registry.remedies()


@pytest.mark.parametrize(("attribute", "taken"), [("code", "GS201"), ("name", "dead-relu")])
def test_what_is_taken_is_refused_with_both_owners(
    install: Install, attribute: str, taken: str
) -> None:
    own = {"code": "ACME1", "name": "odd"}[attribute]
    install("taking", RULE.replace(f'"{own}"', f'"{taken}"'), "p = taking")
    with pytest.raises(PluginError) as raised:
        registry.rules()
    said = str(raised.value)
    for owner in ("DeadReLU of gradscope", "Odd of taking 1.0", f"the {attribute} {taken!r}"):
        assert owner in said


def test_rules_that_explain_each_other_are_refused(install: Install) -> None:
    """Neither would be a root cause, and both would go missing from the findings."""
    other = RULE.replace("ACME1", "ACME2").replace('"odd"', '"strange"')
    for name, source, cause in (("circle_a", RULE, "ACME2"), ("circle_b", other, "ACME1")):
        explained = f'    explained_by = ("{cause}",)\n    def check'
        install(name, source.replace("    def check", explained), f"p = {name}")
    with pytest.raises(PluginError, match="in a circle: ACME"):
        registry.rules()
