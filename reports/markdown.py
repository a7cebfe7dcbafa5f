"""The report as GitHub-flavoured Markdown that fits into a comment on a pull request.

What can be folded is folded, and what does not fit is left out with a word about it: a comment
holds 65,536 characters, and a workflow may have something to add. Comments show no inline SVG, so
charts are told in words and as a line of characters; beside a Markdown file they can be pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import quote

from gradscope.reports.console.fitting import told_apart
from gradscope.reports.console.sparklines import chart_lines
from gradscope.reports.drawing.files import svg_file
from gradscope.reports.markdown_text import block_start, code, fenced, html, inline
from gradscope.reports.nodes import (
    Block,
    Card,
    Cell,
    Chart,
    Code,
    Column,
    Document,
    Entry,
    Figure,
    Fold,
    HeatMap,
    Items,
    Mark,
    Names,
    Paragraph,
    Section,
    Table,
)
from gradscope.reports.wording import count, shortened

__all__ = ["markdown_with_pictures", "render_markdown"]

_MOST = 60_000
"""Bytes of UTF-8, of which there are never fewer than characters."""
_SPARKS = 40
_BAR = 8


@dataclass(frozen=True, slots=True)
class _Room:
    """What is shown at most: characters of a name and of a text, rows of a table, blocks."""

    name: int
    text: int
    rows: int
    blocks: int


_ROOMS = (
    _Room(name=1000, text=4000, rows=60, blocks=60),
    _Room(name=120, text=1000, rows=24, blocks=30),
    _Room(name=60, text=400, rows=12, blocks=12),
    _Room(name=32, text=200, rows=6, blocks=6),
)
"""Tried one after the other until the document fits."""


def render_markdown(document: Document) -> str:
    """The document as Markdown of fewer than 65,536 characters, whatever it holds."""
    return _fitting(document, lambda room: _Pen(room))


def markdown_with_pictures(document: Document, stem: str) -> tuple[str, dict[str, str]]:
    """The document as Markdown that links its charts, and these as SVG by their files' names.

    Args:
        document: what to show.
        stem: the files' names begin with it, followed by ``-1.svg``, ``-2.svg`` and so on.
    """
    names: dict[int, str] = {}
    pictures: dict[str, str] = {}

    def picture(chart: Chart | HeatMap) -> str:
        # The same chart is drawn once, though the document may be written in several sizes.
        if id(chart) not in names:
            name = f"{stem}-{len(names) + 1}.svg"
            names[id(chart)] = name
            pictures[name] = svg_file(chart, f"chart{len(names)}")
        return names[id(chart)]

    text = _fitting(document, lambda room: _Pen(room, picture))
    return text, pictures


def _fitting(document: Document, pen: Callable[[_Room], _Pen]) -> str:
    for room in _ROOMS:
        parts = list(pen(room).document(document))
        if _size(parts) <= _MOST:
            return "\n\n".join(parts) + "\n"
    end = "_Shortened to fit into a comment; the JSON report and the page have all of it._"
    kept: list[str] = []
    for part in parts:
        if _size([*kept, part, end]) <= _MOST:
            kept.append(part)
    return "\n\n".join((*kept, end)) + "\n"


def _size(parts: Sequence[str]) -> int:
    return sum(len(part.encode("utf-8", "replace")) + 2 for part in parts)


@dataclass(frozen=True, slots=True)
class _Pen:
    """Writes nodes in the room there is; with pictures where something can name their files."""

    room: _Room
    picture: Callable[[Chart | HeatMap], str] | None = None

    def document(self, document: Document) -> Iterator[str]:
        headline = document.headline
        yield f"## {self.marked(headline.mark, headline.text)}"
        if headline.detail:
            yield self.paragraph(headline.detail)
        yield f"**{self.text(document.title)}** · {self.text(document.about)}"
        for section in document.sections:
            yield from self.section(section)

    def section(self, section: Section) -> Iterator[str]:
        """Parts of which any may be left out: a folded section is one."""
        blocks = self.blocks(section.blocks, 4)
        if section.folded:
            yield self.details(section.title, blocks)
        else:
            yield f"### {self.text(section.title)}"
            yield from blocks

    def blocks(self, blocks: Sequence[Block], level: int) -> Iterator[str]:
        for block in blocks[: self.room.blocks]:
            yield "\n\n".join(self.block(block, level))
        yield from self.more(len(blocks) - self.room.blocks, "block")

    def block(self, block: Block, level: int) -> Iterator[str]:
        match block:
            case Paragraph():
                yield self.paragraph(block.text)
            case Names():
                yield self.names(block)
            case Items():
                entries = block.entries[: self.room.rows]
                yield "\n".join(self.entry(entry) for entry in entries)
                yield from self.more(len(block.entries) - len(entries), "entry", "entries")
            case Code():
                lines = block.lines[: self.room.rows]
                yield fenced(tuple(line[: self.room.text] for line in lines))
                yield from self.more(len(block.lines) - len(lines), "line")
            case Table():
                yield from self.table(block)
            case Figure():
                yield from self.figure(block)
            case Card():
                yield from self.card(block, level)
            case Fold():
                yield self.details(block.summary, self.blocks(block.blocks, level))
            case _:
                assert_never(block)

    def card(self, card: Card, level: int) -> Iterator[str]:
        heading = " ".join(filter(None, (self.text(card.label), self.text(card.title))))
        if card.mark is not None:
            heading = f"{self.text(f'{card.mark.symbol} {card.mark.word}')} · {heading}"
        yield f"{'#' * min(level, 6)} {heading}"
        yield from self.blocks(card.blocks, level + 1)

    def details(self, summary: str, blocks: Iterator[str]) -> str:
        said = html(self.clipped(summary), self.room.name)
        return "\n\n".join((f"<details><summary>{said}</summary>", *blocks, "</details>"))

    def names(self, names: Names) -> str:
        shown = names.names[: self.room.rows]
        listing = ", ".join(code(shortened(name, self.room.name)) for name in shown)
        more = names.more + len(names.names) - len(shown)
        listing += f" and {more:,} more" if more else ""
        return f"- **{self.text(names.label)}:** {listing}"

    def entry(self, entry: Entry) -> str:
        said = self.marked(entry.mark, entry.text) if entry.mark else self.text(entry.text)
        return f"- **{self.text(entry.term)}:** {said}"

    def figure(self, figure: Figure) -> Iterator[str]:
        if self.picture is None:
            for chart in figure.charts:
                yield self.told(chart)
            yield from self.table(figure.table)
            return
        for chart in figure.charts:
            yield f"**{self.text(chart.title)}**"
            yield f"![{self.text(chart.summary)}]({quote(self.picture(chart))})"
        if figure.folded:
            yield self.details("The numbers", self.table(figure.table))
        else:
            yield from self.table(figure.table)

    def told(self, chart: Chart | HeatMap) -> str:
        """What the chart shows: in words, and each of its lines as a line of characters."""
        said = self.paragraph(chart.summary)
        if isinstance(chart, HeatMap) or not chart.lines:
            return said
        # The names in code too: there all characters have one width, and the lines one start.
        names = [shortened(line.name, _SPARKS) for line in chart.lines]
        widest = max(map(len, names))
        drawn = zip(names, chart_lines(chart, _SPARKS), strict=True)
        return f"{said}\n\n" + fenced(
            tuple(f"{name:<{widest}}  {sparks}".rstrip() for name, sparks in drawn)
        )

    def table(self, table: Table) -> Iterator[str]:
        rows = table.rows[: self.room.rows]
        drawn = [
            self.column(column, [row[index] for row in rows])
            for index, column in enumerate(table.columns)
        ]
        yield "\n".join(
            (
                _row([self.text(column.title, cell=True) for column in table.columns]),
                _row(["---:" if column.numeric else "---" for column in table.columns]),
                *(_row(row) for row in zip(*drawn, strict=True)),
            )
        )
        yield from self.more(len(table.rows) - len(rows), "row")
        if table.caption:
            yield f"<sub>{self.text(table.caption)}</sub>"

    def column(self, column: Column, cells: Sequence[Cell]) -> list[str]:
        if column.name:
            names = told_apart([cell.text for cell in cells], self.room.name)
            return [code(name, cell=True) for name in names]
        texts = [self.text(cell.text, cell=True) for cell in cells]
        if all(cell.bar is None for cell in cells):
            return texts
        # All bars are equally long, so that the numbers before them stay in a column.
        filled = [round(min(1.0, max(0.0, cell.bar or 0.0)) * _BAR) for cell in cells]
        return [
            f"{text} {'█' * length}{'░' * (_BAR - length)}"
            for text, length in zip(texts, filled, strict=True)
        ]

    def marked(self, mark: Mark, text: str) -> str:
        said = f"{self.text(mark.symbol)} {self.text(mark.word)}"
        return f"{said}: {self.text(text)}" if text else said

    def paragraph(self, text: str) -> str:
        return block_start(self.text(text))

    def text(self, text: str, *, cell: bool = False) -> str:
        return inline(self.clipped(text), self.room.name, cell=cell)

    def clipped(self, text: str) -> str:
        return text if len(text) <= self.room.text else f"{text[: self.room.text]} …"

    def more(self, amount: int, noun: str, plural: str = "") -> Iterator[str]:
        if amount > 0:
            said = f"{amount:,} {plural}" if plural and amount > 1 else count(amount, noun)
            yield f"_… and {said} more, left out here._"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
