"""Charts as lines of characters."""

from __future__ import annotations

from gradscope.reports.console.sparklines import chart_lines
from gradscope.reports.nodes import Chart, ChartKind, Line, Tone


def chart(*lines: Line, logarithmic: bool = False, percent: bool = False) -> Chart:
    return Chart(ChartKind.LINES, "t", "s", "x", lines, logarithmic, percent)


def line(*values: float, start: int = 1, missing: tuple[float, ...] = ()) -> Line:
    points = tuple((float(x), y) for x, y in enumerate(values, start) if x not in missing)
    return Line("l", Tone.PLAIN, points, missing)


def test_a_logarithmic_axis_is_honoured() -> None:
    powers = line(*(10.0**-power for power in range(8)))
    assert chart_lines(chart(powers, logarithmic=True), 8) == ["█▇▆▅▄▃▂▁"]
    assert chart_lines(chart(powers), 8) == ["█▁▁▁▁▁▁▁"]


def test_lines_of_a_chart_have_one_scale() -> None:
    before, after = line(1e-8, 1e-4, 1.0), line(1e-2, 1e-1, 1.0)
    assert chart_lines(chart(before, after, logarithmic=True), 9) == ["▁▅█", "▇█████"[:3]]


def test_what_cannot_be_drawn_is_a_cross() -> None:
    sick = line(0.0, 0.1, 1.0, missing=(1.0,))
    assert chart_lines(chart(sick, logarithmic=True), 9)[0][0] == "×"
    assert chart_lines(chart(line(missing=(1.0, 2.0)), logarithmic=True), 9) == ["××"]


def test_a_level_is_not_drawn_as_a_fall() -> None:
    assert chart_lines(chart(line(0.53, 0.49, 0.3), logarithmic=True), 9) == ["███"]


def test_many_points_share_a_character_and_shares_show_their_largest() -> None:
    one_dead = line(*(1.0 if at == 517 else 0.0 for at in range(1000)))
    drawn = chart_lines(chart(one_dead, percent=True), 20)[0]
    assert (len(drawn), drawn.count("█"), drawn.count("▁")) == (20, 1, 19)
    crossed = line(*([1.0] * 1000), missing=(700.0,))
    assert chart_lines(chart(crossed, logarithmic=True), 20)[0].count("×") == 1


def test_nothing_is_nothing() -> None:
    assert chart_lines(chart(), 9) == []
    assert chart_lines(chart(line()), 9) == [""]
