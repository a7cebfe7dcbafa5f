"""What a report and a terminal show of a training run, also of a very long one."""

from __future__ import annotations

import io
import math
import os
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradscope.history import TrainingHistory, newest
from gradscope.records import Report
from gradscope.reports import read_json, render_html, render_json, view
from gradscope.reports.console.live import Now, chosen_layers, frame, sparkline
from gradscope.reports.drawing.charts import draw
from gradscope.reports.drawing.heat_map import draw_heat_map, shades
from gradscope.reports.nodes import Chart, Figure, Fold, HeatMap, Mark, Section, Table, Tone
from tests.reports.runs import alert, history, reported

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"
RUNNING = Mark("▸", "running", Tone.GOOD)


def section(report: Report) -> Section:
    (found,) = [each for each in view(report).sections if each.title == "Over training"]
    return found


def figure(report: Report) -> Figure:
    (found,) = [each for each in section(report).blocks if isinstance(each, Figure)]
    return found


# --- The report -------------------------------------------------------------------------------


def test_the_headline_says_how_long_it_was_and_how_it_ended(healthy: Report) -> None:
    def said(**changes: Any) -> str:
        return view(reported(healthy, history(**changes))).headline.detail

    assert "Recorded 6,000 steps of training at 10 sites" in said()
    assert "had not ended when this was read, or was killed" in said()
    assert "it ran to its end" in said(ended="")
    assert "broken off by KeyboardInterrupt" in said(ended="KeyboardInterrupt")
    assert "3 records were dropped" in said(dropped=3)


def test_findings_stand_with_their_steps_and_what_stands_comes_first(healthy: Report) -> None:
    table = section(reported(healthy, history())).blocks[0]
    assert isinstance(table, Table)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["✗ GS101", "vanishing-gradient", "3,000", "now", "1", "·········━━━━━━━━━"],
        ["▲ GS201", "dead-relu", "2,000", "now", "1", "······━━━━━━━━━━━━"],
        ["▲ GS104", "gradient-spike", "1,000", "1,500", "1", "···━━·············"],
    ]


def test_a_finding_that_comes_and_goes_is_one_line(healthy: Report) -> None:
    alerts = (alert("GS101", 0, 999), alert("GS101", 5000, 5500))
    table = section(reported(healthy, history(alerts=alerts))).blocks[0]
    assert isinstance(table, Table)
    ((code, _, since, until, times, marks),) = table.rows
    assert (code.tone, since.text, until.text, times.text) == (Tone.MUTED, "0", "5,500", "2")
    assert marks.text == "━━━············━━·"


def test_the_charts_show_loss_gradient_and_every_layer(healthy: Report) -> None:
    drawn = figure(reported(healthy, history()))
    loss, gradient, backward, dead, updates = drawn.charts
    assert drawn.linked
    assert isinstance(loss, Chart)
    assert [line.name for line in loss.lines] == ["mean of the steps", "largest"]
    assert loss.lines[0].points[0][0] == 99
    assert isinstance(gradient, Chart)
    assert [line.name for line in gradient.lines] == ["before clipping", "after"]
    assert isinstance(backward, HeatMap)
    assert [name for name, _ in backward.rows] == [f"{layer}.relu" for layer in range(10)]
    assert (backward.logarithmic, backward.edges[0], backward.edges[-1]) == (True, 199, 6000)
    assert "at the end 0 at the first and 0.1 at the last of 10 sites" in backward.summary
    assert isinstance(dead, HeatMap)
    assert (dead.title, dead.percent) == ("Dead units by layer", True)
    assert "80 % (0.relu)" in dead.summary
    assert isinstance(updates, HeatMap)
    assert updates.rows == (("0.weight", (1e-3,) * 60),)


def test_every_row_of_a_heat_map_has_its_history(healthy: Report) -> None:
    drawn = figure(reported(healthy, history()))
    assert drawn.histories is not None
    names = {layer.name for layer in drawn.histories.layers}
    for heat in drawn.charts:
        assert not isinstance(heat, HeatMap) or {name for name, _ in heat.rows} <= names
    assert [each.name for each in drawn.histories.quantities] == [
        "backward signal",
        "forward signal",
        "dead units",
        "update over weight",
    ]
    site, parameter = drawn.histories.layers[0], drawn.histories.layers[-1]
    assert (site.name, parameter.name) == ("0.relu", "0.weight")
    assert site.series[0] == history().sites[0].backward_rms
    assert (site.series[-1], parameter.series[:3]) == ((), ((), (), ()))
    assert drawn.histories.times[0] == 99


def test_the_histories_of_a_very_large_run_are_thinned(healthy: Report) -> None:
    drawn = figure(reported(healthy, history(layers=1000, points=300))).histories
    assert drawn is not None
    assert len(drawn.layers) == 201
    assert (drawn.times[0], drawn.times[-1]) == (99, 29999)
    numbers = sum(len(series) for layer in drawn.layers for series in layer.series)
    assert 100_000 < numbers <= 120_000


def test_faults_that_went_are_told_of_a_run_that_ends_well(healthy: Report) -> None:
    gone = reported(replace(healthy, findings=()), history(alerts=(alert("GS101", 0, 50),)))
    assert view(gone).headline.text == "No fault stands at the end; all went again."
    nothing = replace(history(), last_step=-1, alerts=())
    assert view(reported(healthy, nothing)).headline.mark.word == "nothing recorded"


def test_the_table_says_the_same_where_nothing_is_drawn(healthy: Report) -> None:
    table = figure(reported(healthy, history())).table
    first, *_, last = [[cell.text for cell in row] for row in table.rows]
    assert len(table.rows) == 12
    assert first == ["499", "1.89", "1.92", "1", "0.001", "0.0261", "6.67 %"]
    assert last == ["5,999", "0.214", "1", "1", "0.001", "0", "80 %"]
    assert table.rows[-1][-1].tone is Tone.BAD


def test_a_loss_that_is_none_any_more_is_marked(healthy: Report) -> None:
    loss = (*history().loss[:-2], math.nan, math.nan)
    report = reported(healthy, history(loss=loss, loss_peak=loss))
    chart = figure(report).charts[0]
    assert isinstance(chart, Chart)
    assert chart.lines[0].missing == (5899.0, 5999.0)
    assert figure(report).table.rows[-1][1].text == "NaN"


def test_alerts_and_events_can_be_read_one_by_one(healthy: Report) -> None:
    folds = [each for each in section(reported(healthy, history())).blocks if type(each) is Fold]
    assert [fold.summary for fold in folds] == ["3 alerts, one by one", "2 events"]
    events = folds[1].blocks[0]
    assert isinstance(events, Table)
    assert [[cell.text for cell in row] for row in events.rows] == [
        ["500", "epoch", "loss 1.25"],
        ["700", "skipped", ""],
    ]


def test_a_run_that_recorded_nothing_is_said(healthy: Report) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("steps", "loss", "loss_peak", "sampled", "gradient_norm", "gradient_norm_peak"), ()
    )
    nothing |= {"used_norm": (), "learning_rate": (), "sites": (), "alerts": (), "last_step": -1}
    report = reported(healthy, history(**nothing))
    assert view(report).headline.detail == "The run has recorded no step."
    assert "Nothing was recorded." in render_html(report)


def test_it_is_read_back_as_it_was_written(healthy: Report) -> None:
    odd = replace(
        history(), gradient_norm=(math.inf, *history().gradient_norm[1:]), seconds=0.5, ended="x"
    )
    report = reported(healthy, odd)
    assert read_json(render_json(report), "report.json") == report


def test_a_day_of_200_layers_stays_small(healthy: Report) -> None:
    """As many points as the report of a run store has of so many layers."""
    report = reported(healthy, history(layers=200, points=200, loss=(1.0,) * 200))
    assert len(render_json(report)) < 5_000_000
    assert len(render_html(report)) < 5_000_000


# --- The heat map -----------------------------------------------------------------------------


def test_what_a_logarithm_cannot_show_is_struck_through() -> None:
    heat = HeatMap(
        "Signal",
        "It falls.",
        "step",
        (10.0, 20.0, 30.0, 40.0),
        (("a", (1.0, 1.0, 1e-6, 0.0)), ("b", (math.nan, 1.0, 1e-6, math.inf))),
        logarithmic=True,
    )
    assert shades(heat) == ["llax", " lax"]


def test_names_in_a_heat_map_are_text() -> None:
    name = '"><script>alert(1)</script>'
    drawn = draw_heat_map(HeatMap(name, name, name, (1.0,), ((name, (0.5,)),)), "chart1")
    assert "<script>" not in drawn
    assert "&lt;script&gt;" in drawn


# --- The live view ----------------------------------------------------------------------------


def lines(
    training: TrainingHistory, width: int = 80, height: int = 24, encoding: str = "utf-8"
) -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, height=height, color_system=None)
    now = Now("run.gradscope", 1_234_567, training, RUNNING, 2.0)
    for line in frame(now, console, height, closing="q ends this view"):
        console.print(line, soft_wrap=True, highlight=False)
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(encoding).splitlines()


def test_a_frame_looks_as_it_did() -> None:
    """Run with GRADSCOPE_UPDATE_SNAPSHOTS=1 to accept a change, and read the difference."""
    path = SNAPSHOTS / "watch-80x24.txt"
    text = "\n".join(lines(history(layers=40))) + "\n"
    if os.environ.get("GRADSCOPE_UPDATE_SNAPSHOTS") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("height", [6, 10, 24, 60])
@pytest.mark.parametrize("layers", [1, 12, 200])
def test_a_frame_fits_any_terminal(width: int, height: int, layers: int) -> None:
    drawn = lines(history(layers=layers), width, height)
    assert len(drawn) <= height
    assert max(map(len, drawn)) <= width
    assert "running" in drawn[1]


def test_a_frame_has_no_more_than_ascii_where_the_terminal_has_not() -> None:
    drawn = "\n".join(lines(history(), encoding="ascii"))
    assert "> running" in drawn
    assert "x error GS101" in drawn
    assert "\\u" not in drawn


def test_a_frame_shows_what_is_not_finite() -> None:
    first = history().sites[0]
    sites = (replace(first, backward_rms=(*first.backward_rms[:-1], math.inf)),)
    loss = (*history().loss[:-1], math.nan)
    drawn = lines(history(sites=sites, loss=loss))
    assert drawn[2].split()[:2] == ["loss", "NaN"]
    assert any(line.split()[1:3] == ["0.relu", "∞"] for line in drawn)


def test_names_cannot_steer_the_terminal() -> None:
    site = replace(history().sites[0], name="\x1b[31mred")
    drawn = "\n".join(lines(history(sites=(site,), model="\x1b[2J")))
    assert "\x1b" not in drawn
    assert "\\x1b[31mred" in drawn


def test_many_layers_are_folded_to_ends_findings_and_evenly_spaced_ones() -> None:
    sites = history(layers=200).sites
    named = alert("GS101", 0, sites=("150.relu", "151.relu"))
    chosen = chosen_layers(sites, 12, (named,))
    assert len(chosen) == 12
    assert chosen == sorted(chosen)
    assert {0, 150, 151, 199} <= set(chosen)
    assert max(b - a for a, b in pairwise(chosen)) <= 50
    assert chosen_layers(sites[:5], 12, ()) == [0, 1, 2, 3, 4]
    assert len(chosen_layers(sites, 1, ())) == 1


def test_sparklines_are_on_a_log_scale() -> None:
    powers = [10.0**-power for power in range(8)]
    assert sparkline(range(8), powers, 7, 8) == "█▇▆▅▄▃▂▁"
    assert sparkline(range(4), [1.0, math.nan, 0.0, 1e-8], 3, 4, (-8, 0)) == "█ ×▁"
    # What is below zero is not; noise on a level is not drawn as a fall.
    assert sparkline(range(3), [-1.0, 0.0, 1.0], 2, 3) == "▁▅█"
    assert set(sparkline(range(3), [1.0, 1.01, 0.99], 2, 3)) == {"▁"}
    assert sparkline([], [], 9, 5) == "     "
    # Samples stand where their steps are, and hold until the next.
    assert sparkline([0, 1, 80], [1.0, 1.0, 1e-8], 99, 10) == "████████▁▁"


def test_the_newest_value_is_the_last_that_was_seen() -> None:
    assert newest((0.1, 0.2, math.nan)) == 0.2
    assert math.isnan(newest((math.nan,)))


def test_the_legend_of_long_lines_shows_how_each_is_drawn(healthy: Report) -> None:
    loss = figure(reported(healthy, history())).charts[0]
    assert isinstance(loss, Chart)
    drawn = draw(loss, "chart1")
    symbols = re.findall(r'role-legend-symbol.*?stroke-width="([\d.]+)".*?(?=</g>)', drawn)
    dashes = re.findall(r'role-legend-symbol[^/]*?stroke-dasharray="([\d,]+)"', drawn)
    assert symbols == ["1.8", "1.8"]
    assert dashes == ["1,0", "7,3"]
