"""Pages and tables of rules and remedies on the terminal."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

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


def print_page(title: str, page: str) -> None:
    """Prints a docstring's Markdown under its title."""
    from rich.markdown import Markdown
    from rich.text import Text

    _print(Text(title, style="bold"))
    _print(Text())
    _print(Markdown(_quoted(inspect.cleandoc(page))))


def print_heading(heading: str) -> None:
    """Prints a heading as a page has them."""
    from rich.markdown import Markdown
    from rich.text import Text

    _print(Text())
    _print(Markdown(f"## {heading}"))


def print_entries(entries: Mapping[str, str]) -> None:
    """Prints terms and what is said of each."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 3, 0, 0))
    for term, said in entries.items():
        grid.add_row(Text(term), Text(said))
    _print(Text())
    _print(grid)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; its last column takes what room is left."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell.replace("`", "'")) for cell in row))
    _print(table)


def print_note(text: str) -> None:
    """Prints a line or two of running text."""
    from rich.text import Text

    _print(Text(text))


def summed_up(entry: Rule[Any] | Remedy) -> str:
    """What a rule or remedy is about, and which plugin it comes from, if from one."""
    from gradscope import registry
    from gradscope.discovery import summary

    package = registry.origin(entry)
    return summary(entry) + ("" if package == registry.OWN else f" ({package})")


def _quoted(page: str) -> str:
    """The page with quotation marks around code, which without colour looks like other words."""
    from rich.console import Console

    console = Console()
    if console.is_terminal and not console.no_color:
        return page
    code = re.compile(r"(?<![`'])(`{1,2})(?!`)([^`]+)\1(?![`'])")
    lines = page.split("\n")
    return "\n".join(line if line[:1] == "|" else code.sub(r"'\1\2\1'", line) for line in lines)


def _print(renderable: RenderableType) -> None:
    from rich.console import Console

    console = Console()
    console.print(renderable, width=min(_WIDEST, console.width))
