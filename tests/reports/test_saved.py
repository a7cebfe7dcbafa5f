"""What the first version of gradscope saved still opens, and is shown, compared and applied.

``saved/spine-*.json`` were written by that version itself, as of revision 9a76837, from a subject
of six layers with sigmoids: ``scan --steps 2``, and ``fix --unsafe --steps 2 --seeds 5`` with two
remedies. They are never written anew.
"""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
from rich.console import Console

import gradscope as api
from gradscope.records import SCHEMA_VERSION, Status
from gradscope.reports import (
    load_plan,
    load_report,
    read_json,
    render_html,
    render_json,
    render_junit,
    render_markdown,
    render_plan,
    render_sarif,
    render_terminal,
    schema,
    view,
)

SAVED = Path(__file__).parent / "saved"
REPORTS = ("spine-scan", "spine-fix")


def saved(name: str) -> Path:
    return SAVED / f"{name}.json"


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_of_the_first_version_opens_with_all_it_says(name: str) -> None:
    raw = json.loads(saved(name).read_text(encoding="utf-8"))
    assert raw["schema_version"] == 1
    report = load_report(saved(name))
    assert report.target.name == raw["target"]["name"] == "deep_sigmoid.py"
    assert [finding.code for finding in report.findings] == ["GS204", "GS101"]
    assert not any(finding.known for finding in report.findings)
    assert report.limits == {}
    assert report.profile is not None
    assert [site.name for site in report.profile.sites] == [
        site["name"] for site in raw["profile"]["sites"]
    ]
    # All that was in the file is in what is written now, which is of this version.
    written = json.loads(render_json(report))
    assert written["schema_version"] == SCHEMA_VERSION
    jsonschema.Draft202012Validator(schema()).validate(written)
    assert_holds(written, {**raw, "schema_version": SCHEMA_VERSION})
    assert read_json(render_json(report), "again") == report


def assert_holds(new: Any, old: Any) -> None:
    if isinstance(old, dict):
        assert list(old) == [key for key in new if key in old]
        for key, value in old.items():
            assert_holds(new[key], value)
    elif isinstance(old, list):
        assert len(new) == len(old)
        for mine, its in zip(new, old, strict=True):
            assert_holds(mine, its)
    else:
        assert new == old


def test_its_verdict_is_told() -> None:
    report = load_report(saved("spine-fix"))
    assert report.verdict is not None
    assert report.verdict.status is Status.FIXED
    assert len(report.verdict.seeds) == 5
    assert report.verdict.bias is None


@pytest.mark.parametrize("name", REPORTS)
def test_every_format_shows_it(name: str) -> None:
    report = load_report(saved(name))
    document = view(report)
    console = Console(file=StringIO(), width=80, color_system=None)
    render_terminal(document, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in (
        text,
        render_html(report),
        render_markdown(document),
        render_sarif(report),
        render_junit(report),
    ):
        assert "deep_sigmoid.py" in shown
        assert "GS204" in shown
        assert "GS101" in shown


def test_a_plan_of_the_first_version_is_applied() -> None:
    plan = load_plan(saved("spine-plan"))
    layers: list[torch.nn.Module] = []
    for _ in range(6):
        layers += [torch.nn.Linear(16, 16), torch.nn.Sigmoid()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 4))
    with api.apply(model, plan):
        kinds = [type(module).__name__ for module in model.modules()]
        assert kinds.count("BatchNorm1d") == 6
    written = json.loads(render_plan(plan))
    assert written["schema_version"] == SCHEMA_VERSION
    jsonschema.Draft202012Validator(schema("plan")).validate(written)
