"""What generated pages are made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradscope.examples.experiments.results import Table

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG file that is stale when its data have changed.

    Its bytes are no sign: another version of the drawing library writes others of the same data.

    Attributes:
        mark: a comment that stands in the file and names the data.
        draw: makes the file, with the mark in it.
    """

    mark: str
    draw: Callable[[], str]


def page(documented: object) -> str:
    """The documentation of a rule or remedy, which is Markdown as it stands."""
    return inspect.cleandoc(type(documented).__doc__ or "")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return Table("", headings, rows, names=len(headings)).markdown()


def cell(text: str) -> str:
    """A text in one line, as a cell of a table can hold it."""
    return " ".join(text.split()).replace("|", "\\|")
