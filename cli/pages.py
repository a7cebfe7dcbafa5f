"""Pages and tables of rules and remedies on the terminal."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

__all__ = ["print_page", "print_table"]

_WIDEST = 100


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; its last column takes what room is left."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    console.print(table, width=min(_WIDEST, console.width))


def print_page(
    title: str, page: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Prints a docstring's Markdown under its title, and a table where there are rows."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    text = f"# {title}\n\n{inspect.cleandoc(page)}"
    console.print(Markdown(text), width=min(_WIDEST, console.width))
    if rows:
        print_table(headings, rows)
