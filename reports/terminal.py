"""The report as terminal text, for 80 columns and more, and readable in fewer.

Names come from models and are not to be trusted: nothing is read as markup, and control
characters are spelled out. Symbols that the terminal's encoding has not have ASCII forms; where
it has no colour, the words beside the colours remain. Charts become lines of characters above
their tables. A section that holds nothing but closed folds is left to ``--verbose`` and to the
formats that can unfold it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, assert_never

from gradscope.reports.console.fitting import told_apart, width_of
from gradscope.reports.console.pen import STYLES, Pen
from gradscope.reports.console.tables import drawn_charts, drawn_table
from gradscope.reports.nodes import (
    Block,
    Card,
    Code,
    Detail,
    Document,
    Entry,
    Figure,
    Fold,
    Items,
    Mark,
    Names,
    Paragraph,
    Section,
    Table,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["STYLES", "Pen", "render_terminal"]

_MEASURE = 96
"""Widest that running text is set; longer lines are hard to read."""
_NAME_LEAST = 12
_CODE = re.compile(r"[A-Z]+[0-9]+")
"""What the card of a finding is labelled with, and no other card."""


def render_terminal(document: Document, console: Console, detail: Detail = Detail.NORMAL) -> None:
    """Print the document to the console, in its width and with its colours, or none.

    Args:
        document: what is to be shown.
        console: where, and how wide and in which encoding.
        detail: the verdict and a line per finding; what a reader needs; or all there is.
    """
    from rich.text import Text

    pen = _Drawer(console, detail)

    def put(renderable: RenderableType, indent: int = 0) -> None:
        indent = min(indent, console.width // 2)
        if isinstance(renderable, Text) and renderable.no_wrap:
            # The terminal breaks it, if it must: then it is copied whole.
            console.print(Text(" " * indent) + renderable, soft_wrap=True, highlight=False)
            return
        # Line by line, so that no line ends in spaces: a report is also piped into files.
        options = console.options.update(width=max(1, console.width - indent))
        for line in console.render_lines(renderable, options, pad=False):
            drawn = Text(" " * indent)
            for segment in line:
                drawn.append(segment.text, segment.style)
            drawn.rstrip()
            console.print(drawn, soft_wrap=True, highlight=False)

    headline = document.headline
    verdict = pen.marked(headline.mark, headline.text, strong=True)
    if detail is Detail.QUIET:
        for line in (verdict, *pen.briefs(document)):
            line.no_wrap = True
            put(line)
        return
    put(pen.heading(document))
    console.print()
    put(verdict, 2)
    if headline.detail:
        put(pen.text(headline.detail), 2)
    for section in document.sections:
        if pen.shows(section):
            console.print()
            for indent, renderable in pen.section(section):
                put(renderable, indent)


class _Drawer(Pen):
    """Draws nodes for one console."""

    def __init__(self, console: Console, detail: Detail) -> None:
        super().__init__(console)
        self.everything = detail is Detail.VERBOSE

    def heading(self, document: Document) -> Text:
        from rich.text import Text

        title = self.name(document.title, self.width)
        return Text("\n").join([self.text(title, "bold"), self.text(document.about, "dim")])

    # --- Findings in a line each ------------------------------------------------------------------

    def briefs(self, document: Document) -> list[Text]:
        """Of each finding its symbol and severity, its code and name, and the first site."""
        blocks = [block for section in document.sections for block in section.blocks]
        found = list(_findings(blocks))
        marks = max((width_of(self.plain(_said(mark))) for mark, _, _ in found), default=0)
        names = max((width_of(self.plain(name)) for _, name, _ in found), default=0)
        lines = []
        for mark, name, site in found:
            line = self.marked(mark, "")
            line.pad_right(marks - line.cell_len + 2)
            line.append_text(self.text(name))
            if site:
                line.pad_right(marks + 2 + names - line.cell_len + 2)
                room = max(_NAME_LEAST, self.width - line.cell_len - len("at "))
                line.append_text(self.text(f"at {self.name(site, room)}"))
            lines.append(line)
        return lines

    # --- Sections and blocks ----------------------------------------------------------------------

    def shows(self, section: Section) -> bool:
        """Whether there is more in it than closed folds."""
        return self.everything or any(
            not isinstance(block, Fold) or block.open for block in section.blocks
        )

    def section(self, section: Section) -> Iterator[tuple[int, RenderableType]]:
        """What to print for a section, each with its indentation."""
        from rich.text import Text

        line = self.text("").append_text(self.text(self.name(section.title, self.width), "bold"))
        line.append(" ")
        line.append_text(self.text("─" * max(0, self.width - line.cell_len), "dim"))
        yield 0, line
        for index, block in enumerate(section.blocks):
            if index and isinstance(block, Card):
                yield 0, Text()
            light = isinstance(block, Items) and not any(entry.mark for entry in block.entries)
            if section.folded and light and not self.everything:
                assert isinstance(block, Items)
                yield 2, self.run_in(block)
            else:
                yield from self.block(block, 2)

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
                    drawn = self.text(line, "cyan")
                    drawn.no_wrap = True
                    yield indent + 2, drawn
            case Table():
                yield from self.table(block, indent)
            case Figure():
                yield from drawn_charts(self, block, indent)
                yield from self.table(block.table, indent)
            case Card():
                yield from self.card(block, indent)
            case Fold():
                opened = block.open or self.everything
                yield indent, self.text(f"{'↳' if opened else '▸'} {block.summary}", "dim")
                if opened:
                    for inner in block.blocks:
                        yield from self.block(inner, indent + 2)
            case _:
                assert_never(block)

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

    def table(self, table: Table, indent: int) -> Iterator[tuple[int, RenderableType]]:
        yield from drawn_table(self, table, indent, everything=self.everything)
        if table.caption:
            yield indent, self.prose(self.text(table.caption, "dim"), self.width - indent)

    def prose(self, text: Text, room: int) -> RenderableType:
        from rich.constrain import Constrain

        return Constrain(text, max(1, min(room, _MEASURE)))

    def names(self, names: Names, room: int) -> RenderableType:
        beside = room - width_of(names.label) - len("  ,")
        width = max(_NAME_LEAST, room // 2, min(beside, 2 * _NAME_LEAST))
        shown = told_apart([self.plain(name) for name in names.names], width)
        listing = ", ".join(shown) + (f" and {names.more:,} more" if names.more else "")
        return self.items(Items((Entry(names.label, listing),)), room)

    def items(self, items: Items, room: int) -> RenderableType:
        from rich.table import Table as Grid

        widest = max((width_of(self.plain(entry.term)) for entry in items.entries), default=0)
        width = min(widest, max(_NAME_LEAST, room // 3))
        grid = Grid.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=width, overflow="fold")
        grid.add_column(overflow="fold", max_width=_MEASURE - width)
        for entry in items.entries:
            said = self.marked(entry.mark, entry.text) if entry.mark else self.text(entry.text)
            grid.add_row(self.text(self.name(entry.term, 2 * width), "dim"), said)
        return grid

    def run_in(self, items: Items) -> RenderableType:
        """Entries of little weight, one after the other in a few lines."""
        said = "; ".join(f"{entry.term} {entry.text}" for entry in items.entries)
        return self.prose(self.text(said, "dim"), self.width - 2)


def _said(mark: Mark) -> str:
    return f"{mark.symbol} {mark.word}"


def _findings(blocks: Iterable[Block]) -> Iterator[tuple[Mark, str, str]]:
    """Mark, code and name, and first site of each finding; of a comparison there are no sites."""
    for block in blocks:
        match block:
            case Card(mark=Mark() as mark) if _CODE.fullmatch(block.label):
                listed = [each for each in block.blocks if isinstance(each, Names)]
                site = next((each.names[0] for each in listed if each.label == "where"), "")
                yield mark, f"{block.label}  {block.title}", site
                yield from _findings(block.blocks)
            case Fold():
                yield from _findings(block.blocks)
            case Table() if block.columns[0].title == "B is":
                for row in block.rows:
                    symbol, _, word = row[0].text.partition(" ")
                    yield Mark(symbol, word, row[0].tone), row[1].text, ""
