"""SARIF: valid by the schema of OASIS, and what code scanning asks for beside it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest

from gradscope.records import Finding, Measure, Report, Severity, Skipped, Source, Target, Tool
from gradscope.reports import render_sarif
from gradscope.reports.baseline import against

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
NAMES = (
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m",
    "a\0b",
    "half\ud800",
    "evil\u202egnp.exe",
    "no\ufffecharacter\uffff",
    "long." * 100,
    "\U0001f4a3 bomb",
    "[click](http://evil.invalid)",
    "quote\" & 'apostrophe' {0} %s",
    "two\nlines",
)


def sarif(report: Report) -> dict[str, Any]:
    text = render_sarif(report)
    assert text.isascii()
    log: dict[str, Any] = json.loads(text)
    VALIDATOR.validate(log)
    return log


def run(report: Report) -> dict[str, Any]:
    (only,) = sarif(report)["runs"]
    return dict(only)


def finding(code: str = "GS101", *sites: str, **others: Any) -> Finding:
    values = {
        "name": "vanishing-gradient",
        "severity": Severity.ERROR,
        "message": "It vanishes.",
        "evidence": {},
        **others,
    }
    return Finding(code=code, sites=sites, **values)


def test_the_schema_is_strict_enough_to_tell(demo: Report) -> None:
    log = sarif(demo)
    for path, wrong in (
        (("version",), "2.0.0"),
        (("runs", 0, "results", 0, "level"), "fatal"),
        (("runs", 0, "results", 0, "message"), {}),
        (("runs", 0, "results", 0, "locations", 0, "physicalLocation", "region"), {"startLine": 0}),
        (("runs", 0, "tool"), {}),
        (("runs", 0, "nonsense"), 1),
    ):
        broken = copy.deepcopy(log)
        inner: Any = broken
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = wrong
        assert not VALIDATOR.is_valid(broken), path


def test_each_finding_is_a_result_of_its_rule(demo: Report) -> None:
    told = run(demo)
    rules = told["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["GS204", "GS101", "GS501"]
    assert rules[1]["name"] == "vanishing-gradient"
    assert rules[1]["shortDescription"]["text"] == "Vanishing gradient."
    assert "gradscope rule GS101" in rules[1]["help"]["markdown"]
    assert [result["ruleId"] for result in told["results"]] == ["GS204", "GS101", "GS501"]
    assert [result["level"] for result in told["results"]] == ["error", "error", "warning"]
    for result in told["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    vanishing = told["results"][1]
    assert vanishing["message"]["text"].startswith(
        "The backward signal at the first site is 2.61e-09"
    )
    assert "Explained by GS204. Treated by norm-insertion" in vanishing["message"]["text"]
    assert vanishing["properties"]["cause"] == "GS204"
    assert vanishing["properties"]["remedies"] == ["norm-insertion", "artificial-derivative"]
    assert vanishing["properties"]["evidence"]["attenuation"] == {
        "value": 2.61e-9,
        "limit": 1e-5,
        "source": "measured",
    }


def test_an_info_is_a_note_and_nothing_found_is_no_result(healthy: Report) -> None:
    assert run(healthy)["results"] == []
    noted = replace(healthy, findings=(finding(severity=Severity.INFO),))
    (result,) = run(noted)["results"]
    assert result["level"] == "note"


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("nets/deep.py", "nets/deep.py"),
        ("nets/deep.py:build_other", "nets/deep.py"),
        ("nets.deep:build_other", "nets/deep.py"),
        ("nets.deep", "nets/deep.py"),
        ("nets", "nets"),
        ("a b#1%.pt", "a%20b%231%25.pt"),
        ("é\u202e.pt", "%C3%A9%E2%80%AE.pt"),
        ("MLP", "MLP"),
        ("gone.py:build", "gone.py%3Abuild"),
    ],
)
def test_a_result_stands_at_line_1_of_the_file_of_the_target(
    healthy: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, uri: str
) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "deep.py").touch()
    (tmp_path / "a b#1%.pt").touch()
    monkeypatch.chdir(tmp_path)
    for given in (name, str(tmp_path / name)) if name.startswith("nets/") else (name,):
        report = replace(healthy, findings=(finding(),), target=Target(given, "file", 1))
        (result,) = run(report)["results"]
        assert [each["physicalLocation"] for each in result["locations"]] == [
            {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}
        ]


def test_a_file_elsewhere_has_its_whole_address(
    healthy: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    report = replace(healthy, findings=(finding(),), target=Target("../there.pt", "file", 1))
    (result,) = run(report)["results"]
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == (tmp_path / "there.pt").as_uri()


def test_sites_are_logical_locations_of_their_kind(demo: Report) -> None:
    mixed = replace(demo, findings=(finding("GS301", "1", "0.weight", "net::relu@0"),))
    (result,) = run(mixed)["results"]
    assert result["locations"][0]["logicalLocations"] == [
        {"fullyQualifiedName": "1", "kind": "module"},
        {"fullyQualifiedName": "0.weight", "kind": "variable"},
        {"fullyQualifiedName": "net::relu@0", "kind": "function"},
    ]
    bare = replace(demo, findings=(finding("GS501"),))
    assert "logicalLocations" not in run(bare)["results"][0]["locations"][0]


def test_of_very_many_sites_the_message_says_how_many(healthy: Report) -> None:
    names = [f"layers.{index}" for index in range(2_000)]
    (result,) = run(replace(healthy, findings=(finding("GS101", *names),)))["results"]
    assert len(result["locations"][0]["logicalLocations"]) == 100
    assert "layers.9 and 1,990 more sites." in result["message"]["text"]
    assert result["message"]["text"].endswith("The first 100 of its 2,000 sites are listed.")


def test_a_finding_is_known_again_by_rule_and_sites_alone(healthy: Report) -> None:
    def prints(*findings: Finding) -> list[Any]:
        results = run(replace(healthy, findings=findings))["results"]
        return [result["partialFingerprints"] for result in results]

    first, order, values, place, rule = prints(
        finding("GS101", "a", "b"),
        finding("GS101", "b", "a"),
        finding(
            "GS101",
            *("a", "b"),
            severity=Severity.WARNING,
            message="Other.",
            evidence={"ratio": Measure(1.0, 2.0, Source.MEASURED)},
            since=3,
        ),
        finding("GS101", "a"),
        finding("GS102", "a", "b"),
    )
    assert first == order == values
    assert first not in (place, rule)
    assert first.keys() == {"gradscopeFinding/v1"}
    # What an alert hangs on must not change with a release.
    expected = "703c5094cbab986f91fa8faa2fdde991ed1579f80eb0b390a30c90ee128cfd31"
    assert first["gradscopeFinding/v1"] == expected


def test_against_a_baseline_each_result_says_whether_it_is_new(demo: Report) -> None:
    assert all("baselineState" not in result for result in run(demo)["results"])
    before = replace(demo, findings=demo.findings[:1])
    states = [result["baselineState"] for result in run(against(demo, before))["results"]]
    assert states == ["unchanged", "new", "new"]
    none = replace(demo, findings=())
    assert {each["baselineState"] for each in run(against(demo, none))["results"]} == {"new"}


def test_the_run_tells_its_command_and_what_was_left_out(demo: Report) -> None:
    report = replace(
        demo,
        environment={"command": "gradscope scan deep.py", **demo.environment},
        skipped=(Skipped("GS301", "no optimizer was given"), Skipped("GS1, GS2", "x")),
    )
    (invocation,) = run(report)["invocations"]
    assert invocation["executionSuccessful"] is True
    assert invocation["commandLine"] == "gradscope scan deep.py"
    first, second, refused = invocation["toolExecutionNotifications"]
    assert first == {
        "level": "note",
        "message": {"text": "GS301 was skipped: no optimizer was given."},
        "associatedRule": {"id": "GS301"},
    }
    assert "associatedRule" not in second
    assert refused["message"]["text"] == (
        "skip-connection was refused at 0: input and output differ in shape, 784 against 64."
    )


@pytest.mark.parametrize(
    ("version", "semantic"),
    [
        ("0.1.0", "0.1.0"),
        ("0.1.0.dev0", "0.1.0-dev0"),
        ("1.2.3rc1+local.1", "1.2.3-rc1+local.1"),
        ("1.2", None),
    ],
)
def test_the_version_is_a_semantic_one(healthy: Report, version: str, semantic: str | None) -> None:
    driver = run(replace(healthy, tool=Tool("gradscope", version)))["tool"]["driver"]
    assert driver.get("semanticVersion") == semantic
    assert driver["version"] == version


def test_hostile_names_and_numbers_stay_text(healthy: Report, hostile: Report) -> None:
    run(hostile)
    measures = {
        name: Measure(value, value, Source.MEASURED)
        for name, value in zip(NAMES, [float("nan"), float("inf"), -float("inf")], strict=False)
    }
    for name in NAMES:
        report = replace(
            healthy,
            target=Target(name, name, 1),
            environment={name: name, "command": name},
            findings=(finding("GS401", *NAMES, message=name, evidence=measures, cause=name),),
            skipped=(Skipped(name, name),),
        )
        told = run(report)
        (result,) = told["results"]
        text = json.dumps(told, ensure_ascii=False)
        assert not any(character in text for character in "\x1b\0\u202e\ud800")
        assert "](" not in result["message"]["text"]
        sites = [each["fullyQualifiedName"] for each in result["locations"][0]["logicalLocations"]]
        assert sites[0] == NAMES[0]
        assert sites[2:5] == ["a\\x00b", "half\\ud800", "evil\\u202egnp.exe"]
        assert sites[6:8] == [NAMES[6], NAMES[7]]
        assert len(sites) == len(NAMES)
        values = [each["value"] for each in result["properties"]["evidence"].values()]
        assert values == ["NaN", "Infinity", "-Infinity"]
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert all(character.isalnum() or character in "%/._-~:" for character in uri)
        if name in (NAMES[0], NAMES[1], NAMES[4], NAMES[7]):
            assert unquote(uri) == name
