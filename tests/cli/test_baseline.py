"""``--baseline``: what is known does not fail the gate, and every format says what is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest

from gradscope.records import SCHEMA_VERSION
from gradscope.reports import load_plan, load_report, render_plan
from tests.cli.conftest import SICK
from tests.cli.test_scan_many import save


def saved(gradscope: Any, target: Path, name: str = "before.json") -> Path:
    path = Path(name)
    run = gradscope("scan", target, "--fail-on", "never", "--format", "json", "--output", path)
    assert run.status == 0, run.err
    return path


def without(path: Path, code: str) -> Path:
    """The report again, without what one rule found."""
    report = json.loads(path.read_text())
    kept = [each for each in report["findings"] if each["code"] != code]
    assert len(kept) < len(report["findings"])
    path.write_text(json.dumps({**report, "findings": kept}))
    return path


def test_a_subject_fails_on_what_is_new_alone(gradscope: Any, sick: Path) -> None:
    before = saved(gradscope, sick)
    found = {finding.code for finding in load_report(before).findings}
    assert "GS101" in found
    run = gradscope("scan", sick, "--baseline", before, "--format", "json")
    assert (run.status, run.said) == (0, "")
    told = json.loads(run.out)
    assert {each["code"] for each in told["findings"] if each["known"]} == found
    assert told["environment"]["baseline"] == "before.json"

    without(before, "GS101")
    run = gradscope("scan", sick, "--baseline", before, "--format", "json", "--output", "now.json")
    assert run.status == 1
    marks = {finding.code: finding.known for finding in load_report("now.json").findings}
    assert marks == {code: code != "GS101" for code in found}
    # From the saved report the other forms are made without a second scan.
    log = json.loads(gradscope("report", "now.json", "--format", "sarif").out)
    states = {each["ruleId"]: each["baselineState"] for each in log["runs"][0]["results"]}
    assert states == {code: "new" if code == "GS101" else "unchanged" for code in found}
    shown = gradscope("report", "now.json", "--format", "junit").out
    assert gradscope("report", "now.json", "--format", "junit", "--output", "now.xml").out == ""
    assert Path("now.xml").read_text() == shown
    cases = fromstring(shown).iter("testcase")
    assert {case.get("name") for case in cases if case.find("failure") is not None} == {"GS101"}


@pytest.mark.parametrize("several", [False, True], ids=["a checkpoint", "a folder of them"])
def test_so_do_checkpoints_and_folders_of_them(
    gradscope: Any, tmp_path: Path, several: bool
) -> None:
    target = save(tmp_path / "run" / "100.pt", dead=0.8, step=100)
    if several:
        save(tmp_path / "run" / "200.pt", dead=0.8, step=200)
        target = tmp_path / "run"
    before = saved(gradscope, target)
    assert any(finding.code == "GS201" for finding in load_report(before).findings)
    assert gradscope("scan", target).status == 1
    run = gradscope("scan", target, "--baseline", before)
    assert (run.status, run.said) == (0, "")
    assert gradscope("scan", target, "--baseline", without(before, "GS201")).status == 1


def test_a_checkpoint_that_is_not_read_is_told_all_the_same(gradscope: Any, tmp_path: Path) -> None:
    for step in (100, 200):
        save(tmp_path / "run" / f"{step}.pt", dead=0.8, step=step)
    before = saved(gradscope, tmp_path / "run")
    (tmp_path / "run" / "300.pt").write_bytes(b"nothing")
    run = gradscope("scan", tmp_path / "run", "--baseline", before, "--format", "junit")
    assert run.status == 3
    (error,) = fromstring(run.out).iter("error")
    assert "300.pt" in str(error.text)


def test_a_baseline_of_another_target_counts_with_a_warning(
    gradscope: Any, sick: Path, write: Callable[..., Path]
) -> None:
    before = saved(gradscope, sick)
    run = gradscope("scan", write("other.py", SICK), "--baseline", before, "--format", "json")
    assert run.status == 0
    assert run.said.startswith(
        "gradscope: before.json may be the baseline of another target: it is"
    )
    assert str(sick) in run.said
    assert json.loads(run.out)["findings"][0]["known"]


def comparison(gradscope: Any, report: Path) -> str:
    return str(gradscope("compare", report, report, "--format", "json").out)


def test_what_is_no_baseline_is_refused_before_any_work(gradscope: Any, sick: Path) -> None:
    report = saved(gradscope, sick)
    text = report.read_text()
    plan = Path("plan.json")
    plan.write_text(render_plan(load_report(report).plan or _empty_plan()))
    assert load_plan(plan).prescriptions == ()
    wrong = {
        "missing.json": None,
        "empty.json": "",
        "cut.json": text[:100],
        "list.json": "[]",
        "other.json": "{}",
        "comparison.json": comparison(gradscope, report),
        "newer.json": json.dumps({**json.loads(text), "schema_version": SCHEMA_VERSION + 1}),
        "plan.json": plan.read_text(),
    }
    said = {}
    for name, content in wrong.items():
        if content is not None:
            Path(name).write_text(content)
        run = gradscope("scan", sick, "--baseline", name)
        assert (run.status, run.out) == (3, ""), name
        assert run.err.startswith(f"gradscope: --baseline: {name} "), name
        assert "save one with 'gradscope scan TARGET" in run.err
        assert "profiling" not in run.err
        said[name] = run.err
    assert "No such file" in said["missing.json"] or "not" in said["missing.json"]
    assert "is a plan, not a report" in said["plan.json"]
    assert f"schema_version {SCHEMA_VERSION + 1}" in said["newer.json"]


def _empty_plan() -> Any:
    from gradscope.records import Plan

    return Plan()


def test_compare_holds_b_against_a_in_all_formats(
    gradscope: Any, sick: Path, healthy: Path
) -> None:
    bad, good = saved(gradscope, sick, "bad.json"), saved(gradscope, healthy, "good.json")
    codes = [finding.code for finding in load_report(bad).findings]
    for a, b, status, state in ((good, bad, 1, "new"), (bad, bad, 0, "unchanged")):
        run = gradscope("compare", a, b, "--format", "sarif")
        assert run.status == status
        results = json.loads(run.out)["runs"][0]["results"]
        assert [(each["ruleId"], each["baselineState"]) for each in results] == [
            (code, state) for code in codes
        ]
        run = gradscope("compare", a, b, "--format", "junit")
        assert run.status == status
        failed = {
            case.get("name")
            for case in fromstring(run.out).iter("testcase")
            if case.find("failure") is not None
        }
        assert failed == (set(codes) if status else set())
    for code, told in (("GS101", ["GS101"]), ("GS201", [])):
        run = gradscope("compare", good, bad, "--select", code, "--format", "sarif")
        assert [each["ruleId"] for each in json.loads(run.out)["runs"][0]["results"]] == told
    for form, beginning in (("markdown", "#"), ("json", "{")):
        run = gradscope("compare", good, bad, "--format", form)
        assert run.status == 1, run.err
        assert run.out.lower().startswith(beginning)
        assert "GS101" in run.out
