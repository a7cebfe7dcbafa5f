"""What was tried: curves with their interval, and how far a gradient is turned."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
from scipy import stats

from gradscope.records import Bias, ParameterBias, Report, Status, Verdict
from gradscope.reports import view
from gradscope.reports.nodes import Chart, Figure, Items
from gradscope.reports.sections.proof import verdict_numbers
from tests.reports.test_view import section


def test_training_curves_have_the_interval_of_their_mean(demo: Report) -> None:
    (drawn,) = [
        each for each in section(view(demo), "What was tried").blocks if isinstance(each, Figure)
    ]
    (chart,) = drawn.charts
    assert isinstance(chart, Chart)
    assert demo.verdict is not None
    for line in chart.lines:
        assert len(line.interval) == len(line.points)
        trials = [each for each in demo.verdict.trials if each.matched and each.arm == line.name]
        for index, (low, high) in enumerate(line.interval):
            losses = [loss for each in trials if math.isfinite(loss := each.curve[index][1])]
            expected = stats.t.interval(
                0.95, len(losses) - 1, statistics.fmean(losses), stats.sem(losses)
            )
            assert (low, high) == pytest.approx(expected)


def test_one_seed_has_no_interval(demo: Report) -> None:
    assert demo.verdict is not None
    trials = tuple(each for each in demo.verdict.trials if each.seed == 0)
    report = replace(demo, verdict=replace(demo.verdict, trials=trials))
    (drawn,) = [
        each for each in section(view(report), "What was tried").blocks if isinstance(each, Figure)
    ]
    (chart,) = drawn.charts
    assert isinstance(chart, Chart)
    assert {line.interval for line in chart.lines} == {()}
    assert "interval" not in chart.title


def test_an_interval_stays_on_a_log_scale(demo: Report) -> None:
    assert demo.verdict is not None
    trials = tuple(
        replace(each, curve=((0, 2.0), (100, 1e-6 if each.seed else 0.01)))
        for each in demo.verdict.trials
    )
    report = replace(demo, verdict=replace(demo.verdict, trials=trials))
    (drawn,) = [
        each for each in section(view(report), "What was tried").blocks if isinstance(each, Figure)
    ]
    (chart,) = drawn.charts
    assert isinstance(chart, Chart)
    assert chart.logarithmic
    assert all(low > 0 for line in chart.lines for low, _ in line.interval)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (
            ParameterBias("(all)", 0.5, 1.0, False, False),
            "cosine to the true one 0.5 at the start; lowest 0.25, at 0.weight; "
            "1 parameter whose true gradient is zero gets one",
        ),
        (
            ParameterBias("(all)", math.nan, math.inf, True, False),
            "the true gradient is zero, so there is no direction to compare",
        ),
    ],
)
def test_a_turned_gradient_is_told(whole: ParameterBias, said: str) -> None:
    parameters = (
        ParameterBias("0.weight", 0.25, 1.0, False, False),
        ParameterBias("0.bias", math.nan, math.inf, True, False),
    )
    verdict = Verdict(Status.IMPROVED, "It learns.", bias=Bias(whole, parameters, 8))
    [items] = verdict_numbers(verdict, {})
    assert isinstance(items, Items)
    assert said in [entry.text for entry in items.entries]
