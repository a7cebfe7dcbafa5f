"""The report as SARIF 2.1.0, the format in which code scanning takes findings.

A model has no lines, and viewers want one: each result stands at line 1 of the target's file, with
its sites as logical locations. Paths are relative to the working directory, so that a scan from the
root of a repository names its files as the repository does. What a result is known again by, in the
run after, are its rule and its sites, never its numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradscope.records import Finding, Report, Severity, Tool
from gradscope.reports.baseline import held
from gradscope.reports.for_programs import at, explained, located
from gradscope.reports.left_out import rules_of, skips_and_refusals, unread
from gradscope.reports.wording import sentence, spoken, visible

__all__ = ["render_sarif"]

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_SITES_LISTED = 100
"""Code scanning shows no more locations of a result."""
_VERSION = re.compile(r"(\d+\.\d+\.\d+)\.?([0-9A-Za-z]*)(\+[0-9A-Za-z.-]+)?")


def render_sarif(report: Report) -> str:
    """The report as indented JSON in ASCII, with a final newline.

    Findings of severity info are notes. Where the report was held against a baseline, each result
    says whether it is new or unchanged.
    """
    rules = list({finding.code: finding for finding in report.findings}.values())
    codes = [finding.code for finding in rules]
    place, compared = _place(report.target.name), held(report)
    parameters = _parameters(report)
    run = {
        "tool": {"driver": {**_driver(report.tool), "rules": list(map(_rule, rules))}},
        "invocations": [_invocation(report)],
        "results": [
            {
                **_result(finding, place, parameters),
                "ruleIndex": codes.index(finding.code),
                **({"baselineState": _state(finding)} if compared else {}),
            }
            for finding in report.findings
        ],
        "columnKind": "unicodeCodePoints",
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(_shown(log), indent=2, allow_nan=False) + "\n"


def _driver(tool: Tool) -> dict[str, Any]:
    """The tool; of a version X.devN of Python the semantic one is X-devN."""
    driver = {"name": tool.name, "version": tool.version}
    if parts := _VERSION.fullmatch(tool.version):
        release, suffix, local = parts.groups("")
        driver["semanticVersion"] = f"{release}{f'-{suffix}' if suffix else ''}{local}"
    return driver


def _rule(finding: Finding) -> dict[str, Any]:
    told = f"gradscope rule {finding.code}"
    return {
        "id": finding.code,
        "name": finding.name,
        "shortDescription": {"text": sentence(spoken(finding.name))},
        "fullDescription": {"text": f"{sentence(spoken(finding.name))} See: {told}"},
        "help": {
            "text": f"{told} says what the rule does, why it is bad and when it is wrong.",
            "markdown": f"`{told}` says what the rule does, why it is bad and when it is wrong.",
        },
    }


def _result(finding: Finding, place: str, parameters: set[str]) -> dict[str, Any]:
    sites = list(dict.fromkeys(map(visible, finding.sites)))
    more = len(sites) - _SITES_LISTED
    text = " ".join([located(finding), *explained(finding)])
    if more > 0:
        text += f" The first {_SITES_LISTED} of its {len(sites):,} sites are listed."
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": place},
            "region": {"startLine": 1},
        }
    }
    if sites:
        location["logicalLocations"] = [
            {"fullyQualifiedName": site, "kind": _kind(site, parameters)}
            for site in sites[:_SITES_LISTED]
        ]
    identity = "\0".join([finding.code, *sorted(sites)]).encode()
    return {
        "ruleId": finding.code,
        "level": _LEVEL[finding.severity],
        "message": {"text": _plain(text)},
        "locations": [location],
        "partialFingerprints": {"gradscopeFinding/v1": hashlib.sha256(identity).hexdigest()},
        "properties": {
            "evidence": {
                measure: {
                    "value": _finite(one.value),
                    "limit": None if one.limit is None else _finite(one.limit),
                    "source": one.source.value,
                }
                for measure, one in finding.evidence.items()
            },
            "cause": finding.cause,
            "remedies": list(finding.remedies),
            "since": finding.since,
        },
    }


def _state(finding: Finding) -> str:
    return "unchanged" if finding.known else "new"


def _kind(site: str, parameters: set[str]) -> str:
    if site in parameters:
        return "variable"
    return "function" if "::" in site else "module"


def _parameters(report: Report) -> set[str]:
    profile = report.profile
    if profile is None:
        return set()
    stored = () if profile.stored is None else profile.stored.shapes
    return {visible(name) for name in (*(each.name for each in profile.parameters), *stored)}


def _invocation(report: Report) -> dict[str, Any]:
    skipped, refused = skips_and_refusals(report)
    lost = list(unread(report))
    told = [
        *(_told("error", f"{each.what} could not be read: {each.reason}") for each in lost),
        *(
            _told("note", f"{each.what} was skipped: {each.reason}", rules_of(each))
            for each in skipped
        ),
        *(
            _told("note", f"{each.remedy} was refused{at(each.sites)}: {each.reason}")
            for each in refused
        ),
    ]
    invocation: dict[str, Any] = {
        "executionSuccessful": not lost,
        "toolExecutionNotifications": told,
    }
    if "command" in report.environment:
        invocation["commandLine"] = report.environment["command"]
    return invocation


def _told(level: str, text: str, rules: Sequence[str] = ()) -> dict[str, Any]:
    said = {"level": level, "message": {"text": _plain(sentence(text))}}
    return {**said, "associatedRule": {"id": rules[0]}} if len(rules) == 1 else said


def _plain(text: str) -> str:
    """What would be a link in SARIF is a layer's name here."""
    return text.replace("](", "] (")


def _place(name: str) -> str:
    """The target's file as a URI: relative to the working directory where it lies in it."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        name = visible(name)  # no file's name
    # A link in the repository is the file there, so links are not followed.
    path = Path(os.path.abspath(_file(name)))  # noqa: PTH100
    if not path.is_relative_to(Path.cwd()):
        return path.as_uri()
    return quote(os.fsencode(path.relative_to(Path.cwd()).as_posix()))


def _file(name: str) -> str:
    """The file of ``path/file.py:NAME`` and of ``package.module:NAME``, where there is one."""
    before = name.rpartition(":")[0] or name
    module = before.replace(".", "/")
    for file in (name, before, f"{module}.py", f"{module}/__init__.py"):
        if os.path.exists(file):  # noqa: PTH110 - this takes any name, however wrong
            return file
    return name


def _finite(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _shown(node: Any) -> Any:
    """A copy in which no string, key or value, can steer what shows it."""
    if isinstance(node, str):
        return visible(node)
    if isinstance(node, dict):
        return {visible(key): _shown(value) for key, value in node.items()}
    return [_shown(each) for each in node] if isinstance(node, list) else node
