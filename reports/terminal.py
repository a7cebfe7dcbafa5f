"""The report as terminal text, for 80 columns and more.

Names come from models and are not to be trusted: nothing is read as markup, and control
characters are spelled out. Where the terminal knows no Unicode, symbols have ASCII forms; where
it has no colour, the words beside the colours remain. Charts become their tables, and a section
that holds nothing but closed folds is left to the formats that can unfold it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradscope.reports.nodes import (
    Block,
    Card,
    Cell,
    Code,
    Column,
    Document,
    Entry,
    Figure,
    Fold,
    Items,
    Mark,
    Names,
    Paragraph,
    Table,
    Tone,
)
from gradscope.reports.wording import shortened, visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["STYLES", "Pen", "render_terminal"]

STYLES = {
    Tone.PLAIN: "",
    Tone.GOOD: "green",
    Tone.WARN: "yellow",
    Tone.BAD: "red",
    Tone.MUTED: "dim",
}
_ASCII = str.maketrans(
    {
        "✓": "+",
        "✗": "x",
        "▲": "!",
        "●": "i",
        "→": "->",
        "↳": "=>",
        "▸": ">",
        "…": "~",
        "–": "-",
        "·": "-",
        "━": "#",
        "╸": "#",
        "─": "-",
        "×": "x",
        "∞": "inf",
        **dict(zip("▁▂▃▄▅▆▇█", ".:-=+*#@", strict=True)),
    }
)
_MEASURE = 96
"""Widest that running text is set; longer lines are hard to read."""
_WIDE = 100
"""From this many columns on, optional columns and longer bars are shown."""
_NAME_LEAST = 12


def render_terminal(document: Document, console: Console) -> None:
    """Print the document to the console, in its width and with its colours, or none."""
    from rich.rule import Rule
    from rich.text import Text

    pen = Pen(console)

    def put(renderable: RenderableType, indent: int = 0) -> None:
        # Line by line, so that no line ends in spaces: a report is also piped into files.
        options = console.options.update(width=max(1, console.width - indent))
        for line in console.render_lines(renderable, options, pad=False):
            drawn = Text(" " * indent)
            for segment in line:
                drawn.append(segment.text, segment.style)
            drawn.rstrip()
            console.print(drawn, soft_wrap=True, highlight=False)

    headline = document.headline
    put(pen.heading(document))
    console.print()
    put(pen.marked(headline.mark, headline.text, strong=True), 2)
    if headline.detail:
        put(pen.text(headline.detail), 2)
    for section in document.sections:
        if all(isinstance(block, Fold) and not block.open for block in section.blocks):
            continue
        console.print()
        title = pen.text(section.title, "bold")
        console.print(Rule(title, align="left", style="dim"), highlight=False)
        for index, block in enumerate(section.blocks):
            if index and isinstance(block, Card):
                console.print()
            if (
                section.folded
                and isinstance(block, Items)
                and not any(entry.mark for entry in block.entries)
            ):
                put(pen.run_in(block), 2)
                continue
            for indent, renderable in pen.block(block, 2):
                put(renderable, indent)


class Pen:
    """Draws nodes for one console: what it needs to know of that console stands here."""

    def __init__(self, console: Console) -> None:
        self.width = console.width
        self.ascii = console.options.ascii_only

    def text(self, text: str, style: str = "") -> Text:
        from rich.text import Text

        text = visible(text)
        if self.ascii:
            text = text.translate(_ASCII).encode("ascii", "backslashreplace").decode()
        return Text(text, style=style)

    def heading(self, document: Document) -> Text:
        from rich.text import Text

        title = shortened(document.title, self.width)
        return Text("\n").join([self.text(title, "bold"), self.text(document.about, "dim")])

    def marked(self, mark: Mark, text: str, *, strong: bool = False) -> Text:
        """The mark's symbol and word in its colour, then the text."""
        style = f"bold {STYLES[mark.tone]}".strip() if strong else STYLES[mark.tone]
        drawn = self.text("").append_text(self.text(f"{mark.symbol} {mark.word}", style))
        if text:
            drawn.append("  ").append_text(self.text(text, "bold" if strong else ""))
        return drawn

    def block(self, block: Block, indent: int) -> Iterator[tuple[int, RenderableType]]:
        """What to print for a block, each with its indentation."""
        room = self.width - indent
        match block:
            case Paragraph():
                yield indent, self.prose(self.text(block.text, STYLES[block.tone]), room)
            case Names():
                yield indent, self.names(block, room)
            case Items():
                yield indent, self.items(block, room)
            case Code():
                for line in block.lines:
                    yield indent + 2, self.text(line, "cyan")
            case Table():
                yield from self.table(block, indent)
            case Figure():
                yield from self.table(block.table, indent)
            case Card():
                yield from self.card(block, indent)
            case Fold():
                symbol = "↳" if block.open else "▸"
                yield indent, self.text(f"{symbol} {block.summary}", "dim")
                if block.open:
                    for inner in block.blocks:
                        yield from self.block(inner, indent + 2)

    def card(self, card: Card, indent: int) -> Iterator[tuple[int, RenderableType]]:
        heading = self.text("")
        if card.mark is not None:
            heading = self.marked(card.mark, "").append("  ")
        heading.append_text(self.text(card.label, "bold"))
        if card.title:
            heading.append("  ").append_text(self.text(card.title, "bold"))
        yield indent, heading
        for inner in card.blocks:
            yield from self.block(inner, indent + 2)

    def prose(self, text: Text, room: int) -> RenderableType:
        from rich.constrain import Constrain

        return Constrain(text, min(room, _MEASURE))

    def names(self, names: Names, room: int) -> RenderableType:
        shown = [shortened(name, max(_NAME_LEAST, room // 2)) for name in names.names]
        listing = ", ".join(shown) + (f" and {names.more:,} more" if names.more else "")
        return self.items(Items((Entry(names.label, listing),)), room)

    def items(self, items: Items, room: int) -> RenderableType:
        from rich.cells import cell_len
        from rich.table import Table as Grid

        widest = max((cell_len(visible(entry.term)) for entry in items.entries), default=0)
        width = min(widest, max(_NAME_LEAST, room // 3))
        grid = Grid.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=width, overflow="fold")
        grid.add_column(overflow="fold", max_width=_MEASURE - width)
        for entry in items.entries:
            said = self.marked(entry.mark, entry.text) if entry.mark else self.text(entry.text)
            grid.add_row(self.text(shortened(entry.term, 2 * width), "dim"), said)
        return grid

    def run_in(self, items: Items) -> RenderableType:
        """Entries of little weight, one after the other in a few lines."""
        said = "; ".join(f"{entry.term} {entry.text}" for entry in items.entries)
        return self.prose(self.text(said, "dim"), self.width - 2)

    def table(self, table: Table, indent: int) -> Iterator[tuple[int, RenderableType]]:
        from rich.table import Table as Grid

        room = self.width - indent
        kept = [
            index
            for index, column in enumerate(table.columns)
            if self.width >= _WIDE or not column.optional
        ]
        drawn = {index: self.column(table, index) for index in kept}
        widths = {
            index: max(text.cell_len for text in [self.title(table, index), *drawn[index]])
            for index in kept
        }
        spare = room - sum(widths[index] + 2 for index in kept if not table.columns[index].name)
        grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for index in kept:
            column = table.columns[index]
            bars = any(row[index].bar is not None for row in table.rows)
            grid.add_column(
                self.title(table, index),
                justify="right" if column.numeric and not bars else "left",
                no_wrap=column.numeric or column.name,
                overflow="fold",
            )
        for number, row in enumerate(table.rows):
            grid.add_row(
                *(
                    self.name(row[index], spare) if table.columns[index].name else each[number]
                    for index, each in drawn.items()
                )
            )
        yield indent, grid
        if table.caption:
            yield indent, self.prose(self.text(table.caption, "dim"), room)

    def title(self, table: Table, index: int) -> Text:
        """The column's title, over its numbers where bars stand to their right."""
        column: Column = table.columns[index]
        if any(row[index].bar is not None for row in table.rows):
            numbers = max(len(row[index].text) for row in table.rows)
            return self.text(column.title.rjust(numbers))
        return self.text(column.title)

    def name(self, cell: Cell, spare: int) -> Text:
        return self.text(shortened(visible(cell.text), max(_NAME_LEAST, spare)))

    def column(self, table: Table, index: int) -> list[Text]:
        """One column's cells; numbers that have bars are aligned before them."""
        cells = [row[index] for row in table.rows]
        if all(cell.bar is None for cell in cells):
            return [self.text(cell.text, STYLES[cell.tone]) for cell in cells]
        numbers = max(len(cell.text) for cell in cells)
        length = 18 if self.width >= _WIDE else 10
        return [
            self.text(cell.text.rjust(numbers) + " ").append_text(
                self.text(self.bar(cell.bar or 0.0, length), STYLES[cell.tone])
            )
            for cell in cells
        ]

    def bar(self, share: float, length: int) -> str:
        whole, half = divmod(round(share * length * 2), 2)
        return ("━" * whole + "╸" * half).ljust(length)
