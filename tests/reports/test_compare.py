"""Two reports side by side: what is new, gone, worse or better, and what a reader sees of it."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from gradscope.records import (
    SCHEMA_VERSION,
    Finding,
    Measure,
    Profile,
    Report,
    Severity,
    Skipped,
    Source,
    Target,
    Tool,
)
from gradscope.reports import render_terminal
from gradscope.reports.comparing.compare import compare
from gradscope.reports.comparing.side_by_side import COMPARISON_SCHEMA_VERSION, SideBySide, Standing
from gradscope.reports.comparing.view import compare_view
from gradscope.reports.html import render_page
from gradscope.reports.json import render_comparison
from gradscope.reports.nodes import Chart, Figure, Table
from gradscope.stored import (
    GradientEvidence,
    Stored,
    StoredRole,
    StoredWeight,
    TensorStatistics,
)
from tests.reports.runs import history, reported

NAMES = ("a.json", "b.json")


def held(a: Report, b: Report, **options: Any) -> SideBySide:
    return compare(a, b, names=NAMES, **options)


def text(a: Report, b: Report, width: int = 80) -> str:
    stream = io.StringIO()
    render_terminal(compare_view(held(a, b)), Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def headline(a: Report, b: Report) -> str:
    shown = compare_view(held(a, b)).headline
    return f"{shown.mark.word}: {shown.text}"


def finding(
    severity: Severity = Severity.ERROR,
    value: float = 1e-6,
    *,
    code: str = "GS101",
    measure: str = "attenuation",
    limit: float = 1e-4,
    sites: tuple[str, ...] = ("1",),
) -> Finding:
    evidence = {measure: Measure(value, limit, Source.MEASURED)}
    return Finding(code, "vanishing-gradient", severity, sites, f"{value:g} is left", evidence)


def with_findings(report: Report, *findings: Finding) -> Report:
    return replace(report, findings=findings)


def layer(name: str, rms: float = 0.1) -> StoredWeight:
    statistics = TensorStatistics(128, rms, 0, None, rows=8)
    return StoredWeight(name, (8, 16), "float32", StoredRole.WEIGHT, statistics)


def gradient(name: str, rms: float, silent: float = 0.0) -> GradientEvidence:
    return GradientEvidence(
        name, (8, 16), "SGD", True, moment="first", gradient_rms=rms, silent_rows=silent
    )


def checkpoint(
    gradients: dict[str, float],
    *findings: Finding,
    silent: float = 0.0,
    step: int | None = 300,
) -> Report:
    stored = Stored(
        "torch.save file",
        step,
        ("SGD",),
        (),
        tuple(map(layer, gradients)),
        tuple(gradient(name, rms, silent) for name, rms in gradients.items()),
        (),
    )
    profile = Profile(Source.OPTIMIZER_STATE, 0, (), (), (), (), "SGD", None, 0, stored=stored)
    return Report(
        SCHEMA_VERSION,
        Tool("gradscope", "0.1.0"),
        Target("model.pt", "torch.save file", 1024),
        {},
        profile,
        findings,
        None,
        None,
        (Skipped("GS204, GS703", "a checkpoint alone does not tell"),),
        (),
    )


EVEN = {f"{index}.weight": 1e-3 for index in range(5)}
FADING = {f"{index}.weight": 10.0 ** (index - 7) for index in range(5)}


@pytest.mark.parametrize("name", ["demo", "healthy", "hostile", "huge"])
def test_a_report_is_the_same_as_itself(name: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(name)
    compared = held(report, report)
    assert not compared.worse
    assert {pair.standing for pair in compared.findings} <= {Standing.SAME}
    assert compared.parameters is not None
    assert not compared.parameters.only_a + compared.parameters.only_b
    assert compared.picture is not None
    assert not any(place.difference for place in compared.picture.places)
    assert "= no worse" in text(report, report)


def test_what_is_new_one_way_is_gone_the_other(demo: Report, healthy: Report) -> None:
    worse, better = held(healthy, demo), held(demo, healthy)
    assert (worse.worse, better.worse) == (True, False)
    assert {pair.standing for pair in worse.findings} == {Standing.NEW}
    assert {pair.standing for pair in better.findings} == {Standing.GONE}
    assert [pair.code for pair in worse.findings] == [each.code for each in demo.findings]
    named = "forward collapse, vanishing gradient and loss plateau"
    assert headline(healthy, demo) == f"B is worse: 3 new findings: {named}."
    assert headline(demo, healthy) == f"B is better: 3 gone: {named}."


@pytest.mark.parametrize(
    ("before", "after", "standing", "worse"),
    [
        (finding(Severity.WARNING), finding(Severity.ERROR), Standing.WORSE, True),
        (finding(Severity.INFO), finding(Severity.WARNING), Standing.WORSE, True),
        (finding(Severity.ERROR), finding(Severity.WARNING), Standing.BETTER, False),
        (finding(value=1e-6), finding(value=1e-9), Standing.STRONGER, False),
        (finding(value=1e-9), finding(value=1e-6), Standing.WEAKER, False),
        (finding(value=1e-6), finding(value=1.05e-6), Standing.SAME, False),
        (finding(value=5.0, limit=1.0), finding(value=9.0, limit=1.0), Standing.STRONGER, False),
        (finding(value=5.0, limit=1.0), finding(value=math.inf, limit=1.0), Standing.STRONGER, 0),
        (finding(value=math.inf, limit=1), finding(value=math.inf, limit=1), Standing.SAME, False),
        (finding(value=math.nan), finding(value=1e-9), Standing.SAME, False),
        (finding(measure="of a run"), finding(measure="of moments"), Standing.SAME, False),
        (None, finding(Severity.INFO), Standing.NEW, False),
        (None, finding(Severity.WARNING), Standing.NEW, True),
        (finding(), None, Standing.GONE, False),
    ],
)
def test_severity_decides_and_the_value_is_told(
    healthy: Report,
    before: Finding | None,
    after: Finding | None,
    standing: Standing,
    worse: bool,
) -> None:
    compared = held(
        with_findings(healthy, *filter(None, [before])),
        with_findings(healthy, *filter(None, [after])),
    )
    (pair,) = compared.findings
    assert (pair.standing, compared.worse) == (standing, bool(worse))
    assert (pair.a, pair.b) == (before, after)


def test_the_worst_comes_first_and_is_counted(healthy: Report) -> None:
    one, two, three = (f"GS10{number}" for number in (1, 2, 3))
    a = with_findings(healthy, finding(code=one), finding(Severity.WARNING, code=two))
    b = with_findings(healthy, finding(code=two), finding(Severity.WARNING, code=three))
    assert [pair.code for pair in held(a, b).findings] == [three, two, one]
    name = "vanishing gradient"
    assert headline(a, b) == (
        f"B is worse: 1 new finding: {name}; 1 more severe: {name}; 1 gone: {name}."
    )


def test_what_changed_stands_before_what_did_not(healthy: Report) -> None:
    a = with_findings(healthy, *(finding(code=f"GS10{number}") for number in (1, 2)))
    b = with_findings(healthy, *(finding(code=f"GS10{number}") for number in (1, 3)))
    table = compare_view(held(a, b)).sections[0].blocks[0]
    assert isinstance(table, Table)
    assert [row[0].text for row in table.rows] == ["✗ new", "✓ gone", "= same"]


def test_the_curves_of_two_runs_stand_in_one_picture(healthy: Report) -> None:
    a, b = reported(healthy, history()), reported(healthy, history(points=30))
    comparison = held(a, b)
    document = compare_view(comparison, (a, b))
    (section,) = [each for each in document.sections if each.title == "Over training"]
    (figure,) = section.blocks
    assert isinstance(figure, Figure)
    assert [chart.title for chart in figure.charts] == [
        "Loss",
        "Gradient of all parameters (norm)",
        "Backward signal at the first layer (RMS of dL/d output)",
    ]
    assert figure.linked
    loss, _, backward = figure.charts
    assert isinstance(loss, Chart)
    assert [(line.name, len(line.points)) for line in loss.lines] == [("A", 60), ("B", 30)]
    assert isinstance(backward, Chart)
    # The last three are zero, which no log scale shows.
    assert [len(line.points) for line in backward.lines] == [57, 27]
    rows = {row[0].text: (row[1].text, row[2].text) for row in figure.table.rows}
    assert rows["steps"] == ("6,000", "3,000")
    assert rows["signal at the first layer"] == ("0", "0")
    assert "The loss ends at 0.214 in A, at 0.214 in B." in document.headline.detail
    assert "Over training" not in {each.title for each in compare_view(comparison).sections}


def test_both_values_stand_side_by_side(healthy: Report) -> None:
    a = with_findings(healthy, finding(Severity.WARNING, 2.5e-5))
    b = with_findings(healthy, finding(Severity.ERROR, 7.5e-8, sites=("2", "3")))
    said = text(a, b)
    row = next(line for line in said.splitlines() if "vanishing-gradient" in line)
    assert " ".join(row.split()) == "✗ worse GS101 vanishing-gradient warning 2.5e-5 error 7.5e-8"
    assert "In B also at 2 and 3. In B no longer at 1." in " ".join(said.split())


def test_a_rule_that_b_skipped_is_not_called_gone() -> None:
    a = replace(checkpoint(EVEN, finding(code="GS204"), finding(code="GS101")), skipped=())
    standings = {pair.code: pair.standing for pair in held(a, checkpoint(EVEN)).findings}
    assert standings == {"GS204": Standing.UNCHECKED, "GS101": Standing.GONE}
    only = checkpoint(EVEN, finding(code="GS204"))
    assert "? unclear" in text(only, checkpoint(EVEN))
    (new,) = held(checkpoint(EVEN), only).findings
    assert (new.standing, new.unchecked_in_a) == (Standing.NEW, True)
    assert "1 new finding (1 not checked in A): vanishing" in headline(checkpoint(EVEN), only)


def test_findings_of_unwanted_rules_are_left_out_and_named(healthy: Report) -> None:
    b = with_findings(healthy, finding(code="GS101"), finding(code="GS501"))
    compared = held(healthy, b, codes={"GS501"})
    assert [pair.code for pair in compared.findings] == ["GS501"]
    assert (compared.left_out, compared.b.findings) == (("GS101",), 1)
    document = compare_view(held(healthy, b, codes=set()))
    assert "GS101 and GS501" in render_page(document)
    assert not held(healthy, b, codes=set()).worse


def test_layers_of_checkpoints_stand_side_by_side() -> None:
    a, b = checkpoint(EVEN), checkpoint(FADING, silent=0.75, step=600)
    picture = held(a, b).picture
    assert picture is not None
    assert [place.name for place in picture.places] == list(EVEN)
    said = text(a, b)
    row = next(line for line in said.splitlines() if line.strip().startswith("0.weight"))
    # 0.1 times the root of a fan-in of 16.
    assert row.split() == ["0.weight", "0.001", "1e-7", "0", "%", "75", "%", "0.4", "0.4"]
    assert "0.weight differs most: gradient 0.001 in A, 1e-7 in B." in " ".join(said.split())
    assert re.search(r"steps +300 +600", said)


def test_the_layers_that_differ_most_are_shown_in_order() -> None:
    names = [f"blocks.{index}.weight" for index in range(100)]
    a = checkpoint(dict.fromkeys(names, 1e-3))
    changed = {name: 1e-3 * (10.0 if index % 20 == 7 else 1.01) for index, name in enumerate(names)}
    said = text(a, checkpoint(changed))
    rows = re.findall(r"blocks\.(\d+)\.weight +0.001 +0.01 ", said)
    assert rows == ["7", "27", "47", "67", "87"]
    assert "The 24 of 100 that differ most" in said
    assert len(re.findall(r"^  blocks", said, re.MULTILINE)) == 24


def test_the_signal_of_two_runs_stands_side_by_side(demo: Report) -> None:
    assert demo.verdict is not None
    repaired = replace(demo, profile=demo.verdict.profile, findings=())
    said = text(demo, repaired)
    assert "Signal over depth" in said
    assert re.search(r"backward A +backward B", said)
    page = render_page(compare_view(held(demo, repaired)))
    assert "<svg" in page
    assert "Backward signal" in page


def test_a_run_and_a_checkpoint_share_findings_only(demo: Report) -> None:
    stored = checkpoint({"0.weight": 1e-3}, finding(measure="gradient, first over last"))
    compared = held(demo, stored)
    assert compared.picture is None
    said = " ".join(text(demo, stored).split())
    assert "B was read from a checkpoint and A was measured" in said
    assert "of two kinds and are not compared: attenuation in A" in said
    assert "forward-collapse error 1.03e-5 – –" in said


def test_different_models_are_told_and_their_layers_left_alone() -> None:
    a, b = checkpoint(EVEN, finding()), checkpoint({"other.weight": 1.0}, finding(value=1e-9))
    compared = held(a, b)
    assert compared.picture is None
    assert compared.parameters is not None
    assert (compared.parameters.shared, compared.parameters.only_b) == (0, ("other.weight",))
    said = " ".join(text(a, b).split())
    assert "different models" in said
    assert "▲ stronger" in said
    assert "only in A 0.weight, 1.weight, 2.weight" in said


def test_names_of_one_and_other_shapes_are_told() -> None:
    a, b = checkpoint(EVEN), checkpoint({**EVEN, "head.weight": 1e-3})
    assert a.profile is not None
    assert a.profile.stored is not None
    first, *rest = a.profile.stored.weights
    stored = replace(a.profile.stored, weights=(replace(first, shape=(8, 4)), *rest))
    a = replace(a, profile=replace(a.profile, stored=stored))
    said = " ".join(text(a, b).split())
    assert "only in B head.weight" in said
    assert "of another shape in B 0.weight" in said
    assert "5 layers in both" in said


def test_a_report_without_a_profile_is_compared_by_its_findings(healthy: Report) -> None:
    bare = replace(with_findings(healthy, finding()), profile=None)
    said = text(healthy, bare)
    assert "B tells nothing of layers" in said
    assert "✗ B is worse" in said


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("other", ["demo", "hostile", "huge"])
def test_nothing_hostile_passes_and_nothing_is_wider_than_the_terminal(
    hostile: Report, other: str, width: int, request: pytest.FixtureRequest
) -> None:
    b = request.getfixturevalue(other)
    compared = compare(hostile, b, names=("\x1b[2J<b>.json", "[red]\u202e.json"))
    stream = io.StringIO()
    render_terminal(compare_view(compared), Console(file=stream, width=width, color_system=None))
    said = stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", said)
    assert "[red]" in said
    assert max(map(len, said.splitlines())) <= width
    page = render_page(compare_view(compared))
    assert "<script" not in page
    assert "<b>" not in page
    assert "\x1b" not in page


def test_the_json_has_the_documented_shape_and_no_nan(hostile: Report, demo: Report) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    raw = json.loads(render_comparison(held(hostile, demo)), parse_constant=refuse)
    assert raw["schema_version"] == COMPARISON_SCHEMA_VERSION == 1
    keys = {
        "a": "name target kind tool parameters steps optimizer source findings loss",
        "parameters": "shared only_a only_b reshaped",
        "picture": "kind places only_a only_b",
    }
    assert {key: " ".join(raw[key]) for key in keys} == keys
    assert " ".join(raw) == "schema_version worse a b findings parameters picture left_out"
    assert " ".join(raw["findings"][0]) == "code name standing measure unchecked_in_a a b"
    assert raw["findings"][-1]["a"]["evidence"]["share"]["value"] == "NaN"


def test_the_json_holds_what_the_text_shows() -> None:
    a, b = checkpoint(EVEN), checkpoint(FADING, finding())
    raw = json.loads(render_comparison(held(a, b)))
    assert raw["worse"] is True
    assert raw["findings"][0]["standing"] == "new"
    place = raw["picture"]["places"][0]
    assert (place["name"], place["b"]["gradient"], place["b"]["scale"]) == ("0.weight", 1e-7, 0.4)
