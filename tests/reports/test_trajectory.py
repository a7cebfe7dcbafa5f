"""What a report shows of a run's checkpoints, at a glance and in a small file."""

from __future__ import annotations

import math
from dataclasses import replace

from gradscope.records import Profile, Report, Severity, Source
from gradscope.reports import read_json, render_html, render_json, view
from gradscope.reports.nodes import Figure, Fold, Section, Table
from gradscope.stored import Stored
from gradscope.trajectory import Snapshot, SnapshotFinding

STORED = Stored("PyTorch checkpoint", 90, ("SGD",), (), (), (), ())


def snapshot(step: int | None, *codes: str, **numbers: float) -> Snapshot:
    findings = tuple(
        SnapshotFinding(code, "dead-relu", Severity.ERROR, ("0.weight",), 40, {"share": 0.9})
        for code in codes
    )
    name = "best.pt" if step is None else f"{step}.pt"
    given = {"gradient_first": 1e-3, "gradient_last": 1e-2, "inactive": 0.2, "update_ratio": 1e-3}
    return Snapshot(name, step, findings, scale_low=0.6, scale_high=1.2, **given | numbers)


def reported(report: Report, *trajectory: Snapshot) -> Report:
    profile = Profile(
        source=Source.OPTIMIZER_STATE,
        batch_size=0,
        losses=(),
        input_variation=(),
        sites=(),
        parameters=(),
        optimizer="SGD",
        epsilon=None,
        seed=0,
        stored=STORED,
        trajectory=trajectory,
    )
    return replace(report, profile=profile, verdict=None, plan=None)


def section(report: Report) -> Section:
    (found,) = [each for each in view(report).sections if each.title == "Over training"]
    return found


def lines(report: Report) -> list[list[str]]:
    table = section(report).blocks[0]
    assert isinstance(table, Table)
    return [[cell.text for cell in row] for row in table.rows]


def test_what_is_there_now_stands_before_what_is_gone(healthy: Report) -> None:
    report = reported(
        healthy,
        snapshot(100, "GS101"),
        snapshot(200, "GS101", "GS201"),
        replace(snapshot(300), unread="cut short"),
        snapshot(1400, "GS201"),
    )
    assert lines(report) == [
        ["✗ GS201", "dead-relu", "step 200", "now", "2 of 3", "·━?━"],
        ["✗ GS101", "dead-relu", "step 100", "step 200", "2 of 3", "━━?·"],
    ]


def test_what_later_ones_do_not_tell_is_not_gone(healthy: Report) -> None:
    last = replace(snapshot(300), unchecked=("GS201",))
    report = reported(healthy, snapshot(100), snapshot(200, "GS201"), last)
    assert lines(report) == [
        ["✗ GS201", "dead-relu", "step 200", "step 200, not told since", "1 of 2", "·━?"]
    ]


def test_the_charts_run_over_steps_and_leave_out_what_has_none(healthy: Report) -> None:
    report = reported(
        healthy,
        snapshot(None),
        snapshot(100, "GS201"),
        snapshot(200, "GS201", gradient_first=0.0, inactive=0.9),
        snapshot(900, "GS201", gradient_first=math.inf),
    )
    figure = section(report).blocks[1]
    assert isinstance(figure, Figure)
    gradients, inactive = figure.charts
    assert (gradients.x_title, gradients.logarithmic) == ("step", True)
    first, last = gradients.lines
    assert (first.points, first.missing) == (((100.0, 1e-3),), (200.0, 900.0))
    assert [at for at, _ in last.points] == [100.0, 200.0, 900.0]
    assert inactive.lines[0].points == ((100.0, 0.2), (200.0, 0.9), (900.0, 0.2))
    assert [row[0].text for row in figure.table.rows] == [
        "best.pt", "step 100", "step 200", "step 900"
    ]  # fmt: skip


def test_without_an_optimizer_the_weights_are_drawn(healthy: Report) -> None:
    unknown = {"gradient_first": math.nan, "gradient_last": math.nan, "inactive": math.nan}
    report = reported(healthy, snapshot(1, "GS303", **unknown), snapshot(2, "GS303", **unknown))
    figure = section(report).blocks[1]
    assert isinstance(figure, Figure)
    (scale,) = figure.charts
    assert [line.name for line in scale.lines] == ["least of the layers", "largest"]
    assert [column.title for column in figure.table.columns] == ["checkpoint", "scale", "to"]


def test_a_run_without_findings_is_told_in_short(healthy: Report) -> None:
    (fold,) = section(reported(healthy, snapshot(1), snapshot(2))).blocks
    assert isinstance(fold, Fold)


def test_a_thousand_checkpoints_stay_small(healthy: Report) -> None:
    report = reported(
        healthy, *(snapshot(step, "GS101", "GS201") for step in range(100, 100_001, 100))
    )
    written = render_json(report)
    assert len(written) < 1_500_000
    assert read_json(written, "report.json") == report
    assert [len(one[-1]) for one in lines(report)] == [18, 18]
    assert len(render_html(report)) < 2_000_000
