"""Pages and tables of rules and remedies on the terminal."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from gradscope.remedies import Remedy
    from gradscope.rules import Rule

__all__ = [
    "print_entries",
    "print_heading",
    "print_note",
    "print_page",
    "print_table",
    "summed_up",
]

_WIDEST = 100
_GAP = 3
"""Cells between two columns of a table."""
_LAST, _LAST_LEAST = 40, 24
"""Where a table's last column has less than the one, those before it are folded at their words;
where it has less than the other even so, each row becomes a list."""
_TABLE = re.compile(r"(?:^\|.*\|[ ]*$\n?)+", re.MULTILINE)


def print_page(title: str, page: str) -> None:
    """Prints a docstring's Markdown under its title."""
    from rich.markdown import Markdown
    from rich.text import Text

    _print(Text(title, style="bold"))
    _print(Text())
    page = _quoted(inspect.cleandoc(page))
    at = 0
    for table in _TABLE.finditer(page):
        _print(Markdown(page[at : table.start()]))
        headings, _, *rows = [_cells_of(line) for line in table.group().splitlines()]
        _print(Text())
        print_table(headings, rows)
        at = table.end()
    if page[at:].strip():
        if at:
            _print(Text())
        _print(Markdown(page[at:]))


def print_heading(heading: str) -> None:
    """Prints a heading as a page has them."""
    from rich.markdown import Markdown
    from rich.text import Text

    _print(Text())
    _print(Markdown(f"## {heading}"))
    _print(Text())


def print_entries(entries: Mapping[str, str]) -> None:
    """Prints terms and what is said of each."""
    from rich.table import Table

    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for term, said in entries.items():
        grid.add_row(_text(term), _text(said))
    _print(grid)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; its last column takes what room is left, and the first is never cut."""
    cells = [[cell.replace("`", "'") for cell in row] for row in rows]
    columns = list(zip(headings, *cells, strict=True))
    widths = [max(map(_cells, column)) for column in columns[:-1]]
    room = _width() - _GAP * len(widths)
    if room - sum(widths) < min(_LAST, max(map(_cells, columns[-1]))):
        for index, column in enumerate(columns[1:-1], start=1):
            words = max(_cells(word) for cell in column for word in cell.split() or [""])
            widths[index] = max(words, min(widths[index], (room - _LAST) // max(1, len(widths))))
    left = room - sum(widths)
    if left < min(_LAST_LEAST, max(map(_cells, columns[-1]))):
        _print_list(headings, cells)
        return
    widths.append(min(left, max(map(_cells, columns[-1]))))
    _print(_grid(widths, [[_text(heading, "bold") for heading in headings]]))
    _print(_text("─" * (sum(widths) + _GAP * (len(widths) - 1)), "dim"))
    _print(_grid(widths, [list(map(_text, row)) for row in cells]))


def print_note(text: str) -> None:
    """Prints a line or two of running text, after an empty line."""
    _print(_text(f"\n{text}"))


def summed_up(entry: Rule[Any] | Remedy) -> str:
    """What a rule or remedy is about, and which plugin it comes from, if from one."""
    from gradscope import registry
    from gradscope.discovery import summary

    package = registry.origin(entry)
    return summary(entry) + ("" if package == registry.OWN else f" ({package})")


def _grid(widths: Sequence[int], rows: Sequence[Sequence[Text]]) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, _GAP, 0, 0))
    for width in widths:
        table.add_column(width=width, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _print_list(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints each row as its first cell, and below it the others with their headings."""
    from rich.padding import Padding

    for row in rows:
        _print(_text(row[0], "bold"))
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            _print(Padding(_text(f"{heading}: {cell}"), (0, 0, 0, 2)))


def _cells_of(line: str) -> list[str]:
    """What stands in a row of a Markdown table."""
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    # A cell that is nothing but code is known by its column's heading.
    return [re.sub(r"^`([^`]+)`$", r"\1", cell) for cell in cells]


def _quoted(page: str) -> str:
    """The page with quotation marks around code, which without colour looks like other words."""
    console = _console()
    if console.is_terminal and not console.no_color and console.color_system:
        return page
    code = re.compile(r"(?<![`'])(`{1,2})(?!`)([^`]+)\1(?![`'])")
    lines = page.split("\n")
    return "\n".join(line if line[:1] == "|" else code.sub(r"'\1\2\1'", line) for line in lines)


def _console() -> Console:
    from rich.console import Console

    return Console()


def _width() -> int:
    return min(_WIDEST, _console().width)


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    from gradscope.reports.console.symbols import encodable

    return Text(encodable(text, _console().encoding), style=style)


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.split("\n")))


def _print(renderable: RenderableType) -> None:
    """Prints it line by line, so that no line ends in spaces: pages are piped into files too."""
    from rich.text import Text

    console = _console()
    options = console.options.update(width=_width())
    for line in console.render_lines(renderable, options, pad=False):
        drawn = Text.assemble(*((part.text, part.style or "") for part in line))
        drawn.rstrip()
        console.print(drawn, soft_wrap=True, highlight=False)
