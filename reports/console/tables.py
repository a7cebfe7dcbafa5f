"""Tables and charts on a terminal: what fits beside what, and what gives way where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradscope.reports.console.fitting import told_apart, width_of
from gradscope.reports.console.pen import STYLES, Pen
from gradscope.reports.console.sparklines import chart_lines
from gradscope.reports.nodes import Cell, Chart, Figure, Line, Table
from gradscope.reports.wording import number, percent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["drawn_charts", "drawn_table"]

_WIDE = 100
"""From this many columns on, optional columns and longer bars are shown."""
_GAP = 2
"""Cells between two columns."""
_NAME_LEAST = 12
_WORDS_LEAST = 16
"""A column of words is folded to this width before bars are shortened."""
_LONGEST, _LONG, _SHORTEST = 18, 10, 4
"""Cells of a bar: on a wide terminal, on any other, and where there is little room."""
_ABREAST = 2
"""So many lines of a chart stand side by side, such as before and after; more, one per row."""
_CURVES = 6
"""Lines of a chart that are drawn; the table has all."""
_SPARK_LEAST, _SPARK_MOST = 8, 40


# --- Tables -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which columns are shown, and how long bars in them are; 0 for none."""

    kept: tuple[int, ...]
    bar: int


def drawn_table(
    pen: Pen, table: Table, indent: int, *, everything: bool
) -> Iterator[tuple[int, RenderableType]]:
    """The table in the room there is, each part with its indentation.

    Bars are shortened where it is too wide, then optional columns left out; where not even that
    helps, each row becomes a few lines of text, so that no number is ever cut.

    Args:
        pen: for the console.
        table: to be drawn.
        indent: of its first column.
        everything: whether optional columns are shown on a narrow terminal too.
    """
    room = pen.width - indent
    layout = _layout(pen, table, room, everything)
    if layout is None:
        yield from _stacked(pen, table, indent)
        return
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    columns = {
        index: _cells(pen, table, index, layout.bar)
        for index in layout.kept
        if not table.columns[index].name
    }
    for index in layout.kept:
        if table.columns[index].name:
            names = _named(pen, table, index, _spare(pen, table, layout, room))
            columns[index] = names
    for index in layout.kept:
        column = table.columns[index]
        grid.add_column(
            _title(pen, table, index, layout.bar),
            justify="right" if column.numeric and not _barred(table, index) else "left",
            no_wrap=column.numeric or column.name,
            overflow="fold",
        )
    for row in zip(*(columns[index] for index in layout.kept), strict=True):
        grid.add_row(*row)
    yield indent, grid


def _named(pen: Pen, table: Table, index: int, width: int) -> list[Text]:
    names = told_apart([pen.plain(row[index].text) for row in table.rows], width)
    return [
        pen.text(name, STYLES[row[index].tone]) for name, row in zip(names, table.rows, strict=True)
    ]


def _spare(pen: Pen, table: Table, layout: _Layout, room: int) -> int:
    """What each column of names may take: what others leave, and before words are set in full."""
    named = [index for index in layout.kept if table.columns[index].name]
    others = [index for index in layout.kept if not table.columns[index].name]
    whole = [_widest(pen, table, at, _cells(pen, table, at, layout.bar)) + _GAP for at in others]
    least = [_least(pen, table, at, layout.bar) + _GAP for at in others]
    left = room - sum(least) - _GAP * (len(named) - 1)
    spare = max(room - sum(whole) - _GAP * (len(named) - 1), min(left, room // 3))
    return max(_NAME_LEAST, spare // len(named))


def _layout(pen: Pen, table: Table, room: int, everything: bool) -> _Layout | None:
    """The first that fits; None where none does."""
    wide = pen.width >= _WIDE
    kept = [
        index
        for index, column in enumerate(table.columns)
        if wide or everything or not column.optional
    ]
    barred = any(_barred(table, index) for index in kept)
    longest = _LONGEST if wide else _LONG
    bars = range(longest, _SHORTEST - 1, -1) if barred else (0,)
    while kept:
        for bar in bars:
            least = (_least(pen, table, index, bar) for index in kept)
            if sum(least) + _GAP * (len(kept) - 1) <= room:
                return _Layout(tuple(kept), bar)
        optional = [index for index in kept if table.columns[index].optional]
        if not optional:
            break
        kept.remove(optional[-1])
    return None


def _least(pen: Pen, table: Table, index: int, bar: int) -> int:
    """The width below which a column cannot be read."""
    column = table.columns[index]
    widest = _widest(pen, table, index, _cells(pen, table, index, bar))
    if column.name:
        return min(widest, _NAME_LEAST)
    return widest if column.numeric or _barred(table, index) else min(widest, _WORDS_LEAST)


def _widest(pen: Pen, table: Table, index: int, texts: Sequence[Text]) -> int:
    title = width_of(pen.plain(table.columns[index].title))
    return max([title, *(text.cell_len for text in texts)])


def _barred(table: Table, index: int) -> bool:
    return any(row[index].bar is not None for row in table.rows)


def _title(pen: Pen, table: Table, index: int, bar: int) -> Text:
    """The column's title, over its numbers where bars stand to their right."""
    title = table.columns[index].title
    if bar and _barred(table, index):
        title = title.rjust(max(len(row[index].text) for row in table.rows))
    return pen.text(title)


def _cells(pen: Pen, table: Table, index: int, bar: int) -> list[Text]:
    """One column's cells; numbers that have bars are aligned before them."""
    cells: list[Cell] = [row[index] for row in table.rows]
    if not bar or not _barred(table, index):
        return [pen.text(cell.text, STYLES[cell.tone]) for cell in cells]
    numbers = max(len(cell.text) for cell in cells)
    return [
        pen.text(cell.text.rjust(numbers) + " ").append_text(
            pen.text(pen.bar(cell.bar or 0.0, bar), STYLES[cell.tone])
        )
        for cell in cells
    ]


def _stacked(pen: Pen, table: Table, indent: int) -> Iterator[tuple[int, RenderableType]]:
    """Each row as its first cell, or its name, and below it the others with their titles."""
    head = 0
    if table.columns[0].numeric:
        head = next((index for index, column in enumerate(table.columns) if column.name), 0)
    if table.columns[head].name:
        heads = _named(pen, table, head, max(1, pen.width - indent))
    else:
        title = f"{table.columns[head].title} " if table.columns[head].numeric else ""
        firsts = [row[head] for row in table.rows]
        heads = [pen.text(f"{title}{cell.text}", STYLES[cell.tone]) for cell in firsts]
    for heading, row in zip(heads, table.rows, strict=True):
        yield indent, heading
        said = pen.text("")
        for index, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            if index == head or column.optional or column.title == "#" or not cell.text:
                continue
            said.append_text(pen.text("; " if said else ""))
            said.append_text(pen.text(f"{column.title} ", "dim"))
            said.append_text(pen.text(cell.text, STYLES[cell.tone]))
        yield indent + 2, said


# --- Charts -----------------------------------------------------------------------------------


def drawn_charts(pen: Pen, figure: Figure, indent: int) -> Iterator[tuple[int, RenderableType]]:
    """The charts as lines of characters, where they tell more than the table; else nothing.

    A chart of one or two lines takes a row: before and after stand side by side. One of more has
    a row for each. Heat maps are left to the formats that draw.
    """
    charts = [chart for chart in figure.charts if isinstance(chart, Chart) and _tells(chart)]
    if not charts:
        return
    abreast = [chart for chart in charts if len(chart.lines) <= _ABREAST]
    if abreast:
        yield from _rows(pen, abreast, indent)
    for chart in charts:
        if len(chart.lines) > _ABREAST:
            yield from _curves(pen, chart, indent)


def _tells(chart: Chart) -> bool:
    """Two points are a line, and say nothing that two numbers do not."""
    return any(len(line.points) + len(line.missing) > _ABREAST for line in chart.lines)


def _rows(pen: Pen, charts: Sequence[Chart], indent: int) -> Iterator[tuple[int, RenderableType]]:
    from rich.table import Table as Grid

    most = max(len(chart.lines) for chart in charts)
    titles = [pen.plain(_short(chart.title)) for chart in charts]
    words = [
        max((width_of(pen.plain(c.lines[at].name)) for c in charts if at < len(c.lines)), default=0)
        for at in range(most)
    ]
    alone = most == 1
    taken = max(map(width_of, titles)) + _GAP + (0 if alone else sum(words) + most)
    room = pen.width - indent - taken - _GAP * most
    # The more is said beside the lines, the longer they have to be all the same.
    points = max(len(line.points) for chart in charts for line in chart.lines)
    for told, least in (
        ([pen.plain(_range_and_band(chart)) for chart in charts], min(points, _SPARK_MOST // 2)),
        ([pen.plain(_range(chart)) for chart in charts], _SPARK_LEAST),
        ([], _SPARK_LEAST),
    ):
        length = min(_SPARK_MOST, (room - max(map(width_of, told), default=0)) // most)
        if length >= least:
            break
    else:
        return
    grid = Grid.grid(padding=(0, _GAP, 0, 0))
    for _ in range(1 + most + bool(told)):
        grid.add_column(no_wrap=True)
    for chart, title, ends in zip(charts, titles, told or titles, strict=True):
        row = [pen.text(title, "dim")]
        for line, width, drawn in zip(chart.lines, words, chart_lines(chart, length), strict=False):
            name = "" if alone else f"{line.name:<{width}} "
            row.append(_curve(pen, name, line, drawn))
        row += [pen.text("")] * (1 + most - len(row))
        grid.add_row(*row, *([pen.text(ends, "dim")] if told else []))
    yield indent, grid


def _curve(pen: Pen, name: str, line: Line, drawn: str) -> Text:
    return pen.text(name).append_text(pen.text(drawn, STYLES[line.tone]))


def _curves(pen: Pen, chart: Chart, indent: int) -> Iterator[tuple[int, RenderableType]]:
    from rich.table import Table as Grid

    lines = chart.lines[:_CURVES]
    names = told_apart([pen.plain(line.name) for line in lines], (pen.width - indent) // 2)
    ends = [f"{_value(chart, line, 0)} → {_value(chart, line, -1)}" for line in lines]
    taken = max(map(width_of, names)) + max(width_of(pen.plain(each)) for each in ends)
    length = min(_SPARK_MOST, pen.width - indent - taken - 2 * _GAP)
    if length < _SPARK_LEAST:
        return
    grid = Grid.grid(padding=(0, _GAP, 0, 0))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    for name, line, drawn, said in zip(
        names, lines, chart_lines(chart, length), ends, strict=False
    ):
        grid.add_row(pen.text(name), _curve(pen, "", line, drawn), pen.text(said, "dim"))
    yield indent, pen.text(f"{_short(chart.title)}, {_range(chart)}", "dim")
    yield indent, grid


def _short(title: str) -> str:
    """Without what stands in brackets, which the table's caption says too."""
    return title.partition(" (")[0]


def _range(chart: Chart) -> str:
    if chart.percent:
        return "0 to 100 %"
    seen = [y for line in chart.lines for _, y in line.points]
    return f"{number(min(seen))} to {number(max(seen))}" if seen else ""


def _range_and_band(chart: Chart) -> str:
    band = chart.band
    healthy = "" if band is None else f"; healthy {number(band.low)} to {number(band.high)}"
    return _range(chart) + healthy


def _value(chart: Chart, line: Line, at: int) -> str:
    if not line.points:
        return "–"
    value = line.points[at][1]
    return percent(value) if chart.percent else number(value)
