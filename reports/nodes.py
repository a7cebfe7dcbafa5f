"""The view tree: what a reader sees, free of how it is drawn.

``gradscope.reports.view`` builds one tree from a report; a renderer walks it. A renderer for a
new format handles each kind of block below, and nothing about reports. Colour is never the only
carrier of a meaning: a tone always comes with a symbol and a word, or with the number itself.

Strings in the tree are plain text with control characters already made visible; each renderer
escapes what its own format treats as markup.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "Band",
    "Block",
    "Card",
    "Cell",
    "Chart",
    "ChartKind",
    "Code",
    "Column",
    "Detail",
    "Document",
    "Entry",
    "Figure",
    "Fold",
    "Headline",
    "HeatMap",
    "Histories",
    "History",
    "Items",
    "Line",
    "Mark",
    "Names",
    "Paragraph",
    "Quantity",
    "Section",
    "Table",
    "Tone",
]


class Detail(StrEnum):
    """How much of a document is shown where it cannot be unfolded."""

    QUIET = "quiet"
    NORMAL = "normal"
    VERBOSE = "verbose"


class Tone(StrEnum):
    """How a piece of text is meant."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    MUTED = "muted"


@dataclass(frozen=True, slots=True)
class Mark:
    """A symbol and the word that says the same."""

    symbol: str
    word: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict: a mark, one sentence, and the sentence that says why."""

    mark: Mark
    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Names:
    """A labelled list of names of sites, parameters or remedies, and how many are left out."""

    label: str
    names: tuple[str, ...]
    more: int = 0


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: of the column.
        numeric: aligned to the right.
        name: holds names from the model: set in monospace, shortened in the middle if need be.
        optional: may be left out where there is little room.
    """

    title: str
    numeric: bool = False
    name: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a table; ``bar`` from 0 to 1 draws a bar of that length beside it."""

    text: str
    tone: Tone = Tone.PLAIN
    bar: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A term and what is said of it; a mark where it passed or failed."""

    term: str
    text: str
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Items:
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to copy."""

    lines: tuple[str, ...]


class ChartKind(StrEnum):
    LINES = "lines"
    COLUMNS = "columns"


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart.

    Attributes:
        name, tone: of the series.
        points: x and y, ascending in x.
        missing: the x of values that cannot be drawn.
        labels: what stands at each point, such as a site's name; empty where x says it all.
        interval: the y between which each point is believed to lie; empty where that is not known.
    """

    name: str
    tone: Tone
    points: tuple[tuple[float, float], ...]
    missing: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    interval: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Band:
    """Where values are healthy: an area behind the lines, from ``low`` to ``high``."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Data to draw. ``summary`` says in words what the picture shows.

    Attributes:
        logarithmic: of the y axis; all y are then positive.
        percent: y are shares from 0 to 1.
        band: where values are healthy; None where that cannot be told.
    """

    kind: ChartKind
    title: str
    summary: str
    x_title: str
    lines: tuple[Line, ...]
    logarithmic: bool = False
    percent: bool = False
    band: Band | None = None


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Values over steps by layers, drawn as shades of one colour.

    Attributes:
        title, summary, x_title: as of a chart.
        edges: where each column ends on the x axis, ascending; the first begins at ``start``.
        rows: a name and one value for each column, from top to bottom. NaN is left blank; on a
            logarithmic scale what is not above zero, or not finite, is hatched.
        start: where the x axis begins.
        logarithmic: of the shades.
        percent: values are shares from 0 to 1, and so are the shades.
    """

    title: str
    summary: str
    x_title: str
    edges: tuple[float, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    start: float = 0.0
    logarithmic: bool = False
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of a layer that has a history."""

    name: str
    logarithmic: bool = False
    percent: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """One layer's numbers over time: for each quantity one value at each time, or none at all.

    NaN is a value that was not measured.
    """

    name: str
    series: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Histories:
    """What a click on a layer shows, or its name in a list: how its numbers went over time.

    Attributes:
        x_title: such as ``step``.
        times: where the values stand on the x axis, ascending.
        quantities: which numbers a layer has.
        layers: in the model's order. A layer's name is the row of a heat map or the label of a
            point that leads to it.
    """

    x_title: str
    times: tuple[float, ...]
    quantities: tuple[Quantity, ...]
    layers: tuple[History, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """Charts, and the table that says the same where nothing can be drawn.

    Attributes:
        folded: the table steps back where the charts are drawn.
        linked: the charts have one x axis in common, and are zoomed together.
        histories: of the layers that the charts show, for formats in which one can be chosen.
    """

    charts: tuple[Chart | HeatMap, ...]
    table: Table
    folded: bool = True
    linked: bool = False
    histories: Histories | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """Something with a name of its own, such as a finding: a heading and what belongs to it."""

    mark: Mark | None
    label: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """Detail behind a summary line, folded wherever it can be unfolded.

    A renderer that cannot unfold shows open folds whole and of closed ones the summary.
    """

    summary: str
    blocks: tuple[Block, ...]
    open: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report; ``folded`` ones step back where that is possible."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """The whole report. ``title`` names the target and ``about`` says what it is."""

    title: str
    about: str
    headline: Headline
    sections: tuple[Section, ...]


Block = Paragraph | Names | Table | Items | Code | Figure | Card | Fold
"""What a section, a card or a fold may hold."""
