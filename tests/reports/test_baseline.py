"""What of a report is known by a baseline: when in doubt, nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gradscope.records import Finding, ParameterProfile, Report, Severity, Target
from gradscope.reports import read_json, render_json
from gradscope.reports.baseline import against, held, mismatch

SITES = ("a", "b", "c")


def finding(
    code: str = "GS101", sites: tuple[str, ...] = SITES, severity: Severity = Severity.WARNING
) -> Finding:
    return Finding(code, "some-fault", severity, sites, "It is.", {})


def known(report: Report, before: Finding, after: Finding) -> bool:
    judged = against(replace(report, findings=(after,)), replace(report, findings=(before,)))
    return judged.findings[0].known


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param({}, True, id="the same"),
        pytest.param({"sites": ("c", "a")}, True, id="fewer sites"),
        pytest.param({"severity": Severity.INFO}, True, id="less severe"),
        pytest.param({"severity": Severity.ERROR}, False, id="more severe"),
        pytest.param({"code": "GS102"}, False, id="another rule"),
        pytest.param({"sites": ("b", "c", "d")}, False, id="moved by one layer"),
        pytest.param({"sites": ("a@1",)}, False, id="counted anew"),
        pytest.param({"sites": ()}, False, id="the model as a whole"),
    ],
)
def test_code_severity_and_sites_decide(
    healthy: Report, after: dict[str, Any], expected: bool
) -> None:
    assert known(healthy, finding(), finding(**after)) is expected


def test_a_finding_without_sites_is_known_by_one_without(healthy: Report) -> None:
    assert known(healthy, finding(sites=()), finding(sites=()))
    assert not known(healthy, finding(sites=()), finding())


def test_values_do_not_count(demo: Report) -> None:
    other = tuple(
        replace(each, message="Other.", evidence={}, cause=None) for each in demo.findings
    )
    judged = against(replace(demo, findings=other), demo)
    assert [each.known for each in judged.findings] == [True, True, True]


def test_marks_of_before_are_forgotten_and_do_not_count(demo: Report) -> None:
    marked = against(demo, demo)
    assert all(each.known for each in against(demo, marked).findings)
    none = replace(demo, findings=())
    assert not any(each.known for each in against(marked, none).findings)
    assert against(demo, none).findings == demo.findings


def test_a_report_says_what_it_was_held_against_and_keeps_it(demo: Report) -> None:
    assert not held(demo)
    judged = against(demo, replace(demo, findings=()), "before.json")
    assert held(judged)
    assert judged.environment == {**demo.environment, "baseline": "before.json"}
    # NaN is not equal to itself, so that texts are compared.
    assert render_json(read_json(render_json(judged), "judged.json")) == render_json(judged)


def test_a_baseline_of_another_target_is_told(demo: Report, healthy: Report) -> None:
    assert mismatch(demo, demo) == ""
    assert mismatch(demo, replace(demo, target=Target("./examples/deep_sigmoid.py", "x", 1))) == ""
    assert "mlp.py" in mismatch(demo, healthy)
    assert healthy.profile is not None
    other = ParameterProfile("head.weight", (1,), True, True, 1.0, 0, (1.0,), ())
    changed = replace(healthy, profile=replace(healthy.profile, parameters=(other,)))
    assert "no parameter of it is in mlp.py" in mismatch(changed, healthy)
    empty = replace(healthy, profile=None)
    assert mismatch(changed, empty) == ""
