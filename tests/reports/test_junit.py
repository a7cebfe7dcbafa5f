"""JUnit: valid by the XSD of Jenkins, and one test for each rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring, tostring

import pytest
import xmlschema

from gradscope.records import Finding, Measure, Report, Severity, Skipped, Source, Target
from gradscope.reports import render_junit
from gradscope.reports.baseline import against
from gradscope.trajectory import Snapshot

HOSTILE = (
    "<script>alert(1)</script>]]>",
    "\x1b[31mred\x1b[0m",
    "a\0b\x07",
    "half\ud800",
    "evil\u202egnp.exe",
    "no\ufffecharacter\uffff",
    "long." * 100,
    "\U0001f4a3 bomb",
    "two\nlines\rand\ttabs",
    "&amp; \"'",
)


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(str(Path(__file__).parent / "schemas" / "junit-10.xsd"))


def suite(report: Report, schema: xmlschema.XMLSchema) -> Element:
    text = render_junit(report)
    assert text.isascii()
    schema.validate(text)
    suites = fromstring(text)
    (only,) = suites.findall("testsuite")
    cases = only.findall("testcase")
    for element in (suites, only):
        assert element.get("tests") == str(len(cases))
        assert element.get("failures") == str(len(only.findall("testcase/failure")))
        assert element.get("errors") == str(len(only.findall("testcase/error")))
    assert only.get("skipped") == str(len(only.findall("testcase/skipped")))
    return only


def outcomes(element: Element) -> dict[str | None, str]:
    def of(case: Element) -> str:
        found = [each.tag for each in case if each.tag != "system-out"]
        return found[0] if found else "passed"

    return {case.get("name"): of(case) for case in element.findall("testcase")}


def finding(code: str, severity: Severity, **others: Any) -> Finding:
    values = {"name": "some-fault", "sites": ("a", "b"), "message": "It is.", "evidence": {}}
    return Finding(code=code, severity=severity, **{**values, **others})


def test_the_schema_is_strict_enough_to_tell(demo: Report, schema: xmlschema.XMLSchema) -> None:
    text = render_junit(demo)
    for right, wrong in (
        ("<testcase name=", "<testcase title="),
        ("failure", "fault"),
        (' tests="', ' amount="'),
    ):
        assert right in text
        assert not schema.is_valid(text.replace(right, wrong)), wrong


def test_every_rule_is_a_test(demo: Report, schema: xmlschema.XMLSchema) -> None:
    report = replace(
        demo,
        limits={code: {} for code in ("GS101", "GS102", "GS204", "GS301", "GS501", "GS105")},
        findings=(*demo.findings, finding("GS105", Severity.INFO)),
        skipped=(Skipped("GS301, GS302", "no optimizer was given"), Skipped("data", "was made up")),
    )
    told = suite(report, schema)
    assert outcomes(told) == {
        "scan": "passed",
        "GS101": "failure",
        "GS102": "passed",
        "GS105": "passed",
        "GS204": "failure",
        "GS301": "skipped",
        "GS302": "skipped",
        "GS501": "failure",
    }
    failures = {each.get("name"): each.find("failure") for each in told.findall("testcase")}
    failure = failures["GS101"]
    assert failure is not None
    assert failure.get("type") == "error"
    assert str(failure.get("message")).startswith("vanishing-gradient: The backward signal at")
    for said in (
        "At 1, 3 and 5.",
        "attenuation: 2.61e-9, limit 1e-5 (measured)",
        "slope_per_site: -0.92 (measured)",
        "Explained by GS204.",
        "Treated by norm-insertion and artificial-derivative.",
    ):
        assert said in str(failure.text)
    assert failures["GS501"] is not None
    assert failures["GS501"].get("type") == "warning"
    written = tostring(told, "unicode")
    assert 'message="No optimizer was given."' in written
    assert "skipped data: was made up" in written
    assert "info GS105 some-fault" in written
    assert "refused skip-connection at 0: input and output differ" in written


def test_known_findings_pass_and_say_so(demo: Report, schema: xmlschema.XMLSchema) -> None:
    report = against(demo, replace(demo, findings=demo.findings[:2]))
    told = suite(report, schema)
    assert outcomes(told) == {
        "scan": "passed",
        "GS101": "passed",
        "GS204": "passed",
        "GS501": "failure",
    }
    (case,) = (case for case in told.findall("testcase") if case.get("name") == "GS101")
    output = case.findtext("system-out")
    assert output is not None
    assert output.startswith("known, as the baseline has it: error GS101 vanishing-gradient")


def test_a_report_that_tells_no_rules_has_a_test(
    healthy: Report, schema: xmlschema.XMLSchema
) -> None:
    assert outcomes(suite(healthy, schema)) == {"scan": "passed"}


def test_a_checkpoint_that_was_not_read_is_an_error(
    healthy: Report, schema: xmlschema.XMLSchema
) -> None:
    assert healthy.profile is not None
    lost = Snapshot(name="step-2.pt", unread="it is cut off")
    report = replace(healthy, profile=replace(healthy.profile, trajectory=(lost,)))
    told = suite(report, schema)
    assert outcomes(told) == {"scan": "error"}
    assert told.findtext("testcase/error") == "step-2.pt: it is cut off"


def test_two_findings_of_a_rule_are_two_tests(healthy: Report, schema: xmlschema.XMLSchema) -> None:
    twice = (finding("GS101", Severity.ERROR), finding("GS101", Severity.INFO))
    told = outcomes(suite(replace(healthy, findings=twice), schema))
    assert told == {"scan": "passed", "GS101": "failure", "GS101 (2)": "passed"}


def test_hostile_names_stay_text(
    healthy: Report, hostile: Report, schema: xmlschema.XMLSchema
) -> None:
    suite(hostile, schema)
    for name in HOSTILE:
        evidence = {name: Measure(float("nan"), float("inf"), Source.MEASURED)}
        report = replace(
            healthy,
            target=Target(name, name, 1),
            environment={name: name},
            findings=(
                finding("GS1", Severity.ERROR, sites=HOSTILE, message=name, evidence=evidence),
                finding("GS2", Severity.ERROR, sites=(name,), name=name),
                finding("GS3", Severity.INFO, message=name),
            ),
            skipped=(Skipped(name, name), Skipped("GS4", name)),
        )
        told = suite(report, schema)
        text = "".join(told.itertext())
        assert HOSTILE[0] in text
        assert HOSTILE[6] in text
        assert HOSTILE[7] in text
        for spelled in ("\\x1b[31m", "a\\x00b\\x07", "half\\ud800", "evil\\u202egnp.exe"):
            assert spelled in text
        assert "no\\ufffecharacter\\uffff" in text
        assert told.find(".//script") is None
    assert told.get("name") == "&amp; \"'"
