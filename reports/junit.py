"""The report as JUnit XML, which continuous integration shows as tests.

The target is a test suite and each rule that was run a test, named by its code so that its history
goes on when it fails. Errors and warnings fail, whatever ``--fail-on`` says, of which a report
knows nothing: the exit status is the gate. Infos pass, as findings do that the baseline has; both
say in their output what was found. The test ``scan`` is the reading of the target itself, so that a
report that does not tell which rules ran (a training run's) has a test, too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from gradscope.records import Finding, Report, Severity
from gradscope.reports.for_programs import at, evidence_of, explained, located
from gradscope.reports.left_out import rules_of, skips_and_refusals, unread
from gradscope.reports.wording import count, sentence, visible

__all__ = ["render_junit"]

_SCAN = "scan"
_NO_CHARACTER = re.compile("[\ufffe\uffff]")
"""Beside control characters and halves of pairs, which are spelled out anyway."""


def render_junit(report: Report) -> str:
    """The report as indented XML in ASCII, with a final newline."""
    suites = Element("testsuites", name=_clean(report.tool.name))
    suite = SubElement(suites, "testsuite", name=_clean(report.target.name))
    properties = SubElement(suite, "properties")
    for name, value in {**report.environment, "tool version": report.tool.version}.items():
        SubElement(properties, "property", name=_clean(name), value=_clean(value))

    findings: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        findings[finding.code].append(finding)
    skips, refusals = skips_and_refusals(report)
    left_out = {code: skipped.reason for skipped in skips for code in rules_of(skipped)}
    beside = [f"skipped {each.what}: {each.reason}" for each in skips if not rules_of(each)]
    beside += [f"refused {each.remedy}{at(each.sites)}: {each.reason}" for each in refusals]

    _scan(_case(suite, report, _SCAN), report, beside)
    for code in sorted({*report.limits, *findings, *left_out}):
        if code in findings:
            for number, finding in enumerate(findings[code]):
                name = code if number == 0 else f"{code} ({number + 1})"
                _found(_case(suite, report, name), finding)
        elif code in left_out:
            case = _case(suite, report, code)
            SubElement(case, "skipped", message=_clean(sentence(left_out[code])))
        else:
            _case(suite, report, code)
    totals = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
    }
    for name, total in totals.items():
        suites.set(name, str(total))
        suite.set(name, str(total))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    indent(suites)
    written: bytes = tostring(suites, encoding="us-ascii", xml_declaration=True)
    return written.decode() + "\n"


def _case(suite: Element, report: Report, name: str) -> Element:
    return SubElement(suite, "testcase", name=_clean(name), classname=_clean(report.target.name))


def _scan(case: Element, report: Report, beside: list[str]) -> None:
    """Whether the target was read, and what else was left out."""
    if lost := list(unread(report)):
        error = SubElement(
            case, "error", type="unread", message=f"{count(len(lost), 'checkpoint')} not read"
        )
        error.text = _lines(f"{each.what}: {each.reason}" for each in lost)
    if beside:
        SubElement(case, "system-out").text = _lines(beside)


def _found(case: Element, finding: Finding) -> None:
    title = f"{finding.severity} {finding.code} {finding.name}"
    said = [located(finding), *evidence_of(finding), *explained(finding)]
    if finding.known or finding.severity is Severity.INFO:
        known = "known, as the baseline has it: " if finding.known else ""
        SubElement(case, "system-out").text = _lines([f"{known}{title}", *said])
        return
    failure = SubElement(
        case,
        "failure",
        type=str(finding.severity),
        message=_clean(f"{finding.name}: {finding.message}"),
    )
    failure.text = _lines([title, *said])


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(map(_clean, lines))


def _clean(text: str) -> str:
    """The text without what may not stand in XML 1.0 or could steer what shows it."""
    return _NO_CHARACTER.sub(lambda found: f"\\u{ord(found[0]):04x}", visible(text))
