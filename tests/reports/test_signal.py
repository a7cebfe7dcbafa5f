"""The signal picture: bands that mean what the rules mean, labels, units by kind, histories."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest

from gradscope.pipeline import scan
from gradscope.records import Profile, Report, Role
from gradscope.registry import rules
from gradscope.reports import view
from gradscope.reports.nodes import Chart, Figure, Fold
from gradscope.reports.sections.bands import backward_band, forward_band, judged_last, unit_signal
from gradscope.reports.sections.signal import sites_shown
from gradscope.rules.signal import backward_signal, backward_sites
from tests.reports.conftest import profile, site

LIMITS = {
    "GS101": {"warning": 1e-3, "error": 1e-5},
    "GS102": {"warning": 5e3, "error": 3e4},
    "GS204": {"variation": 1e-3},
    "GS206": {"growth": 1e3, "decay": 1e-3},
}


def figure(report: Report) -> Figure:
    (section,) = [each for each in view(report).sections if each.title == "Signal over depth"]
    (block,) = section.blocks
    (drawn,) = block.blocks if isinstance(block, Fold) else (block,)
    assert isinstance(drawn, Figure)
    return drawn


def chart(report: Report, begin: str) -> Chart:
    (drawn,) = [each for each in figure(report).charts if each.title.startswith(begin)]
    assert isinstance(drawn, Chart)
    return drawn


@cache
def scanned(code: str) -> Report:
    return scan(rules()[code].bad())


def deep(made: Profile) -> Profile:
    """With the depths that a profile of such a chain has."""
    return replace(made, sites=tuple(replace(each, depth=each.index) for each in made.sites))


@pytest.mark.parametrize(
    ("code", "begin", "below"),
    [("GS101", "Backward", True), ("GS102", "Backward", False), ("GS204", "Variation", True)],
)
def test_what_is_outside_the_band_is_what_the_rule_names(
    code: str, begin: str, below: bool
) -> None:
    report = scanned(code)
    (found,) = [each for each in report.findings if each.code == code]
    drawn = chart(report, begin)
    assert drawn.band is not None
    assert code in drawn.band.name
    (line,) = drawn.lines
    outside = {
        label
        for (_, value), label in zip(line.points, line.labels, strict=True)
        if (value < drawn.band.low if below else value > drawn.band.high)
    }
    outputs = {each.name for each in report.profile.sites if each.is_output}  # type: ignore[union-attr]
    assert outside - outputs == set(found.sites) & set(line.labels) - outputs
    assert outside
    assert f"{len(outside)} {'below' if below else 'above'} the healthy band" in drawn.summary


@pytest.mark.parametrize("code", ["GS102", "GS201", "GS206"])
def test_the_band_rests_on_the_site_that_the_rules_compare_with(code: str) -> None:
    made = scanned(code).profile
    assert made is not None
    assert judged_last(made) == backward_sites(made)[-1]
    for each in made.sites:
        assert unit_signal(each) == pytest.approx(backward_signal(each), nan_ok=True)


def test_branches_and_attention_are_left_to_the_trunk() -> None:
    names = [("a", False), ("b", True), ("c", False), ("d", True)]
    sites = [
        replace(site(name, at), depth=at, branch=aside) for at, (name, aside) in enumerate(names)
    ]
    gate = replace(site("gate", 4, role=Role.GATE), depth=4)
    made = profile((*sites, gate, replace(site("out", 5, is_output=True), depth=5)))
    assert judged_last(made) == backward_sites(made)[-1] == sites[2]
    lost = replace(sites[2], backward_rms=(math.nan,) * 8)
    made = profile((sites[0], sites[1], lost, sites[3]))
    assert judged_last(made) == backward_sites(made)[-1] == sites[3]
    assert judged_last(profile((sites[0],))) is None


def test_an_optimizer_that_divides_by_size_has_the_wider_band() -> None:
    made = deep(profile((site("a", 0, backward=2.0), site("b", 1, backward=2.0))))
    shown = sites_shown(made)
    plain = backward_band(made, LIMITS, shown)
    adam = backward_band(replace(made, optimizer="Adam", epsilon=1e-8), LIMITS, shown)
    assert plain is not None
    assert adam is not None
    assert (plain.low, plain.high) == (0.002, 10_000)
    assert (adam.low, adam.high) == (0.002, 60_000)
    assert adam.name.endswith("(GS101, GS102; below it Adam may learn)")


def test_where_it_cannot_be_told_there_is_no_band(healthy: Report) -> None:
    made = deep(profile((site("a", 0), site("b", 1))))
    assert backward_band(made, {}, made.sites) is None
    assert backward_band(made, {"GS101": LIMITS["GS101"]}, made.sites) is None
    assert backward_band(made, LIMITS, ()) is None
    assert forward_band(made, LIMITS) is None  # there is no layer to begin with
    dark = deep(profile((site("a", 0, backward=0.0), site("b", 1, backward=0.0))))
    assert backward_band(dark, LIMITS, dark.sites) is None
    assert chart(healthy, "Backward").band is None


def test_the_forward_band_begins_at_the_first_layer_or_the_first_norm() -> None:
    first = site("0", 0, role=Role.LAYER, forward=0.01)
    norm = site("1", 1, role=Role.NORMALISATION, forward=2.0)
    band = forward_band(deep(profile((first, norm, site("2", 2)))), LIMITS)
    assert band is not None
    assert (band.low, band.high) == (0.002, 2000)
    band = forward_band(deep(profile((first, site("2", 2)))), LIMITS)
    assert band is not None
    assert (band.low, band.high) == (1e-5, 10)


def test_dead_and_saturated_units_have_a_chart_each(healthy: Report) -> None:
    sites = (
        site("relu", 0, operator="ReLU", dead=0.5),
        site("tanh", 1, operator="Tanh", saturated=0.25),
        site("gelu", 2, operator="GELU"),
    )
    report = replace(healthy, profile=profile(sites))
    dead, saturated = chart(report, "Dead units"), chart(report, "Saturated units")
    assert [(line.points, line.labels) for line in dead.lines] == [(((1.0, 0.5),), ("relu",))]
    assert [(line.points, line.labels) for line in saturated.lines] == [(((2.0, 0.25),), ("tanh",))]
    assert "at most measured: 50 % (relu)" in dead.summary
    none = replace(healthy, profile=profile(tuple(replace(each, dead=0.0) for each in sites[:1])))
    assert not any("units" in each.title for each in figure(none).charts)


def test_points_keep_their_names_when_they_are_thinned(huge: Report) -> None:
    assert huge.profile is not None
    drawn = figure(huge)
    names = [each.name for each in huge.profile.sites]
    for each in drawn.charts:
        assert isinstance(each, Chart)
        for line in each.lines:
            assert len(line.labels) == len(line.points) <= 200
            assert [names[int(x) - 1] for x, _ in line.points] == list(line.labels)


def test_every_point_leads_to_the_history_of_its_layer(demo: Report, huge: Report) -> None:
    for report in (demo, huge, replace(demo, verdict=None)):
        drawn = figure(report)
        assert drawn.histories is not None
        names = {layer.name for layer in drawn.histories.layers}
        for each in drawn.charts:
            assert isinstance(each, Chart)
            assert all(set(line.labels) <= names for line in each.lines)


def test_histories_are_before_and_after_a_repair(demo: Report) -> None:
    drawn = figure(demo).histories
    assert drawn is not None
    assert [each.name for each in drawn.quantities[:2]] == [
        "backward signal, before",
        "backward signal, after",
    ]
    assert drawn.times == tuple(map(float, range(8)))
    first = drawn.layers[0]
    assert first.name == "1"
    assert first.series[0] == (pytest.approx(1.032e-10, rel=1e-3),) * 8
    assert first.series[1] == (0.003352,) * 8


def test_a_site_that_a_repair_wrapped_is_the_same_layer(demo: Report) -> None:
    assert demo.verdict is not None
    assert demo.verdict.profile is not None
    after = tuple(
        replace(each, name=f"{each.name}.inner") if each.name == "3" else each
        for each in demo.verdict.profile.sites
    )
    verdict = replace(demo.verdict, profile=replace(demo.verdict.profile, sites=after))
    drawn = figure(replace(demo, verdict=verdict))
    assert drawn.histories is not None
    assert [layer.name for layer in drawn.histories.layers].count("3") == 1
    backward = drawn.charts[0]
    assert isinstance(backward, Chart)
    assert [line.labels[1] for line in backward.lines] == ["3", "3"]
    column = [each.title for each in drawn.table.columns].index("backward after")
    assert drawn.table.rows[1][column].text == "0.00409"


def test_the_histories_of_many_sites_and_steps_stay_small(huge: Report) -> None:
    assert huge.profile is not None
    steps = 200
    values = (0.5,) * steps
    sites = tuple(
        replace(each, forward_rms=values, backward_rms=values, variation=values)
        for each in huge.profile.sites
    )
    drawn = figure(replace(huge, profile=replace(huge.profile, sites=sites))).histories
    assert drawn is not None
    numbers = sum(len(series) for layer in drawn.layers for series in layer.series)
    assert 50_000 < numbers <= 120_000
    assert (drawn.times[0], drawn.times[-1]) == (0, steps - 1)
