"""Tables of an experiment, and the small JSON file that a run of it is kept in.

Each experiment has a

    def tables(run: Run) -> list[Table]

which makes the tables out of what is kept alone: what it prints, and the page that ``make docs``
writes from ``docs/experiments/NAME.json``, are the same.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table as RichTable
from rich.text import Text
from scipy import stats

__all__ = ["Run", "Table", "diverged", "mean", "read_run", "standard_error", "write_run"]


SCHEMA = 1
"""Of the file; one that reads otherwise gets another number."""

ROWS = "rows"
"""Stands for the entries until each is written on a line of its own."""


@dataclass(frozen=True)
class Table:
    """A table that is printed or written as Markdown.

    Attributes:
        title: what is counted, over what.
        headings: of the columns.
        rows: cells as text.
        note: how to read it, below the table.
        names: how many columns at the left are names, and no numbers.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    names: int = 1

    def printed(self) -> RichTable:
        """For the terminal."""
        table = RichTable(title=Text(self.title), caption=Text(self.note), box=box.SIMPLE_HEAD)
        for index, heading in enumerate(self.headings):
            table.add_column(Text(heading), justify="right" if index >= self.names else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        """Without the title, which is for whoever places it."""
        kinds = ["---" if index < self.names else "---:" for index in range(len(self.headings))]
        lines = [self.headings, kinds, *self.rows]
        cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
        text = "".join("| " + " | ".join(line) + " |\n" for line in cells)
        return text + (f"\n{self.note}\n" if self.note else "")


@dataclass(frozen=True)
class Run:
    """One run of an experiment, as it is kept.

    Attributes:
        command: that makes it again.
        settings: seeds, sizes, data; what the command's options and the file's constants were.
        results: one entry a cell or training, of numbers and words.
        versions: of what computed them.
    """

    command: str
    settings: dict[str, Any]
    results: list[dict[str, Any]]
    versions: dict[str, str] = field(
        default_factory=lambda: {"python": platform.python_version(), "torch": torch.__version__}
    )


def write_run(path: Path, run: Run) -> None:
    """As JSON. It has no NaN and no infinity: they are null, and are read as NaN."""
    rows = [json.dumps(_finite(entry), allow_nan=False) for entry in run.results]
    values = {
        "schema": SCHEMA,
        "command": run.command,
        "versions": run.versions,
        "settings": _finite(run.settings),
        "results": [ROWS],
    }
    # One entry a line: a file of one number a line is five times as long, and nobody reads it.
    text = json.dumps(values, indent=1, allow_nan=False)
    text = text.replace(f'  "{ROWS}"', ",\n".join(f"  {row}" for row in rows))
    path.write_text(f"{text}\n", encoding="utf-8")


def read_run(path: Path) -> Run:
    """A run that was kept.

    Raises:
        OSError: there is no such file.
        ValueError: it is no JSON, or not of a run.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path} holds no run of an experiment of schema {SCHEMA}.")
    return Run(**_known(values))


def _known(value: Any) -> Any:
    """``value`` with NaN for what is null."""
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_known(each) for each in value]
    return math.nan if value is None else value


def _finite(value: Any) -> Any:
    """``value`` without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def diverged(values: Sequence[float]) -> int:
    """How many of them are NaN or infinite."""
    return sum(not math.isfinite(value) for value in values)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; NaN of fewer than two, or where one is not finite."""
    if len(values) < 2 or diverged(values):
        return math.nan
    return float(stats.sem(values))
