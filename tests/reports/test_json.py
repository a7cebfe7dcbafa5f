"""JSON round trips, validates against its schema, and is read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from gradscope.errors import PlanError, ReportError
from gradscope.records import Report
from gradscope.reports import read_json, read_plan, render_json, render_plan, schema
from gradscope.reports.comparing.compare import compare
from gradscope.reports.json import render_comparison
from gradscope.reports.json_schema import Kind

DOCS = Path(__file__).parents[2] / "docs"
KINDS: tuple[Kind, ...] = ("report", "plan", "comparison")
REPORTS = ("demo", "healthy", "hostile", "huge")


@pytest.fixture(params=REPORTS)
def report(request: pytest.FixtureRequest) -> Report:
    found: Report = request.getfixturevalue(request.param)
    return found


def test_every_report_round_trips(report: Report) -> None:
    text = render_json(report)
    # NaN is unequal to itself: the written forms are compared, and the rest as it is.
    read = read_json(text, "report.json")
    assert render_json(read) == text
    assert [finding.code for finding in read.findings] == [each.code for each in report.findings]


def test_a_report_without_nan_is_read_as_it_was(healthy: Report) -> None:
    assert read_json(render_json(healthy), "report.json") == healthy


def test_every_report_validates_against_the_schema(report: Report) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(json.loads(render_json(report)))


def test_the_json_has_no_nan_and_keeps_the_order_of_the_fields(hostile: Report) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    raw = json.loads(render_json(hostile), parse_constant=refuse)
    assert list(raw) == [
        "schema_version",
        "tool",
        "target",
        "environment",
        "profile",
        "findings",
        "plan",
        "verdict",
        "skipped",
        "refusals",
        "limits",
    ]
    assert raw["verdict"]["before"] == "NaN"
    assert raw["verdict"]["after"] == "Infinity"


def test_the_schema_forbids_other_keys_and_other_strings_for_numbers(healthy: Report) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    raw = json.loads(render_json(healthy))
    assert not validator.is_valid({**raw, "extra": 1})
    assert not validator.is_valid({**raw, "schema_version": 1})
    assert not validator.is_valid({**raw, "profile": {**raw["profile"], "extra": 1}})
    raw["profile"]["losses"][0] = "NaN"
    assert validator.is_valid(raw)
    raw["profile"]["losses"][0] = "nan"
    assert not validator.is_valid(raw)


def test_no_object_of_a_schema_takes_keys_that_it_does_not_name() -> None:
    def objects(node: object) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for inner in node.values():
                yield from objects(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from objects(inner)

    for kind in KINDS:
        found = list(objects(schema(kind)))
        assert len(found) > 3
        for each in found:
            if "properties" in each:
                assert each["additionalProperties"] is False, each["title"]
            else:  # a dictionary: its values have a type
                assert isinstance(each["additionalProperties"], dict)


def test_a_plan_validates_against_its_schema(demo: Report) -> None:
    assert demo.plan is not None
    validator = jsonschema.Draft202012Validator(schema("plan"))
    raw = json.loads(render_plan(demo.plan))
    validator.validate(raw)
    assert not validator.is_valid({**raw, "extra": 1})
    raw["plan"]["prescriptions"][0]["changes"] = ["everything"]
    assert not validator.is_valid(raw)


@pytest.mark.parametrize("after", REPORTS)
def test_a_comparison_validates_against_its_schema(
    demo: Report, after: str, request: pytest.FixtureRequest
) -> None:
    validator = jsonschema.Draft202012Validator(schema("comparison"))
    compared = compare(demo, request.getfixturevalue(after), names=("a.json", "b.json"))
    raw = json.loads(render_comparison(compared))
    validator.validate(raw)
    assert not validator.is_valid({**raw, "extra": 1})
    assert not validator.is_valid({**raw, "schema_version": 2})
    raw["findings"][0]["standing"] = "dubious"
    assert not validator.is_valid(raw)


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_in_the_docs_are_these(kind: Kind) -> None:
    def keys(node: Any) -> Any:
        """All but the wording, which ``make check`` looks at."""
        if isinstance(node, dict):
            return {key: keys(value) for key, value in node.items() if key != "description"}
        return [keys(each) for each in node] if isinstance(node, list) else node

    jsonschema.Draft202012Validator.check_schema(schema(kind))
    json.dumps(schema(kind), allow_nan=False)
    kept = json.loads((DOCS / f"{kind}.schema.json").read_text(encoding="utf-8"))
    assert keys(kept) == keys(schema(kind))


def test_a_file_name_that_is_not_utf8_is_spelled_out(healthy: Report) -> None:
    target = replace(healthy.target, name="caf\udce9.py")
    text = render_json(replace(healthy, target=target))
    assert read_json(text, "report.json").target.name == "caf\\udce9.py"


def test_a_plan_round_trips(demo: Report) -> None:
    assert demo.plan is not None
    text = render_plan(demo.plan)
    assert list(json.loads(text)) == ["schema_version", "plan"]
    assert read_plan(text, "plan.json") == demo.plan


def edited(report: Report, edit: Callable[[dict[str, Any]], object]) -> str:
    raw = json.loads(render_json(report))
    edit(raw)
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda raw: raw.update(extra=1), "extra: is not a key that gradscope knows"),
        (lambda raw: raw.pop("target"), "target: is missing"),
        (
            lambda raw: raw["findings"][0].update(severity="bad"),
            "findings[0].severity: input should be 'error', 'warning' or 'info'",
        ),
        (
            lambda raw: raw["findings"][0]["evidence"]["variation_ratio"].update(value="1.5"),
            "findings[0].evidence.variation_ratio.value: input should be a valid number",
        ),
        (lambda raw: raw["target"].update(parameters="9"), "target.parameters: input should be"),
        (lambda raw: raw.update(tool=[]), "tool: should be an object"),
        (lambda raw: raw.update(schema_version=99), "has schema_version 99 and this gradscope"),
        (lambda raw: raw.update(schema_version="1"), "is '1' where a whole number from 1 to 2 is"),
        (lambda raw: raw.update(schema_version=0), "schema_version is 0 where a whole number"),
        (lambda raw: raw.update(schema_version=True), "schema_version is True where a whole"),
        (lambda raw: raw.pop("schema_version"), "has no schema_version"),
        (lambda raw: raw.pop("findings"), "is a plan, not a report"),
    ],
)
def test_a_wrong_report_is_refused_with_its_place(
    demo: Report, edit: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(ReportError) as caught:
        read_json(edited(demo, edit), "runs/report.json")
    message = str(caught.value)
    assert message.startswith("runs/report.json")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "report.json is empty"),
        ('{"a": 1,\n "b" 2}', "is not JSON (expected `:` at line 2 column 6)"),
        ('{"a": NaN}', "is not JSON"),
        ("[]", "holds a JSON array where a report is an object"),
        ("[" * 100_000, "is not JSON"),
        ('{"schema_version": 1}', "and 6 more"),
        ('{"a": "\udc80"}', "is not JSON"),
    ],
)
def test_what_is_no_report_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ReportError) as caught:
        read_json(text, "report.json")
    assert said in str(caught.value)


def test_a_wrong_plan_names_the_field(demo: Report) -> None:
    assert demo.plan is not None
    text = render_plan(demo.plan)
    with pytest.raises(PlanError, match=r"plan\.prescriptions\[0\]\.changes\[0\]: input should"):
        read_plan(text.replace('"structure"', '"everything"'), "plan.json")
    with pytest.raises(PlanError, match=r"line 1 column"):
        read_plan(text.replace("\n", "")[:40], "plan.json")
    with pytest.raises(PlanError, match="is a report, not a plan"):
        read_plan(render_json(demo), "report.json")
    newer = text.replace('"schema_version": 2', '"schema_version": 3')
    with pytest.raises(
        PlanError, match="schema_version 3 and this gradscope reads versions up to 2"
    ):
        read_plan(newer, "plan.json")


def test_parameters_keep_their_types(demo: Report) -> None:
    assert demo.plan is not None
    first = demo.plan.prescriptions[0]
    values: dict[str, str | int | float | bool] = {"a": 1, "b": 1.0, "c": True, "d": "1"}
    plan = replace(demo.plan, prescriptions=(replace(first, parameters=values),))
    read = read_plan(render_plan(plan), "plan.json").prescriptions[0].parameters
    assert [(value, type(value)) for value in read.values()] == [
        (value, type(value)) for value in values.values()
    ]


def test_a_plan_that_is_edited_wrongly_names_the_line(demo: Report) -> None:
    assert demo.plan is not None
    text = render_plan(demo.plan)
    for old, new, said in (
        ('"sites"', '"site"', r"prescriptions[0].site: is not a key"),
        ('"reason"', '"note": 1,\n"reason"', r"prescriptions[0].note: is not a key"),
        ('"structure"', '"everything"', "changes[0]: input should be"),
        ('"kind"', '"other": [1],\n"kind"', "other: should be a string, a number, true or"),
    ):
        line = text[: text.index(old)].count("\n") + 1
        with pytest.raises(PlanError) as caught:
            read_plan(text.replace(old, new, 1), "plan.json")
        assert said in str(caught.value)
        assert f"line {line}, plan.prescriptions[0]" in str(caught.value)
    twice = text.replace('"kind"', '"kind": "LayerNorm", "kind"', 1)
    with pytest.raises(PlanError, match=r"'kind' twice in one object"):
        read_plan(twice, "plan.json")
