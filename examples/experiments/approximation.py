"""What the paper's two approximation experiments share: cells of many runs, set beside the paper's.

A cell is one network, learned so many times from different weights and data; the seeds of all
cells are the same, and so are the weights, data and orders of what differs in its activation only.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch

from gradscope.examples.experiments.command_line import (
    add_options,
    all_of,
    command,
    finish,
    positive,
)
from gradscope.examples.experiments.ensemble import Task, train
from gradscope.examples.experiments.results import Run, Table, mean, standard_error
from gradscope.examples.experiments.significance import format_p, p_value

__all__ = [
    "EPOCHS",
    "SETS",
    "Cell",
    "Losses",
    "Published",
    "agrees",
    "by_rate",
    "compared",
    "distribution",
    "main",
    "published",
    "uniform",
]

EDGE = math.sqrt(3)
"""Inputs are drawn from (-EDGE, EDGE)."""

EPOCHS = 300

INTERVALS = (0.001, 0.01, 0.05, 0.1, 0.2)
"""Where losses are counted between; the paper's own are in its figures only."""

READING = (
    "Agrees: the paper's mean lies within two standard errors (s. e.) of ours, or ours rounds to "
    "it. The paper's own error is not known; with one like ours, a sixth of the rows would say no "
    "by chance. p: of a mean so much lower than the plain activation's by chance (paired "
    "permutation test, one-sided)."
)

Published = Mapping[tuple[str, int, str], str]
"""The paper's mean by set, layers and arm, as it is printed."""

SETS: Mapping[str, tuple[str, int]] = {"A": ("adam", 50), "B": ("sgd", 100)}
"""The paper's hyper-parameter sets: optimizer and batch size (its Tables 1 and 3)."""


def published(arms: Sequence[str], sets: Mapping[str, Mapping[int, Sequence[str]]]) -> Published:
    """The paper's table, of which ``sets`` holds a column for each of the arms."""
    return {
        (name, layers, arm): value
        for name, table in sets.items()
        for layers, values in table.items()
        for arm, value in zip(arms, values, strict=True)
    }


@dataclass(frozen=True)
class Cell:
    """One network of one table.

    Attributes:
        set: of hyper-parameters, A or B.
        start: how weights are drawn.
        layers: of the network.
        arm: its activation and derivative.
        task: all that says how it is trained.
    """

    set: str
    start: str
    layers: int
    arm: str
    task: Task


@dataclass(frozen=True)
class Losses:
    """What became of a cell: the best test loss of each run, in the order of seeds."""

    set: str
    start: str
    layers: int
    arm: str
    rate: float
    losses: tuple[float, ...]
    seconds: float

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Losses:
        # JSON has no infinity; it is the loss of a run that diverged in its first epoch.
        losses = (math.inf if math.isnan(loss) else loss for loss in entry["losses"])
        return cls(**{**entry, "losses": tuple(losses)})

    @property
    def mean(self) -> float:
        return mean(self.losses)


def uniform(count: int, inputs: int, generator: torch.Generator) -> torch.Tensor:
    """The paper's inputs, ``(inputs, count)``."""
    return torch.empty(inputs, count).uniform_(-EDGE, EDGE, generator=generator)


def learn(cell: Cell, runs: int) -> dict[str, Any]:
    """Trains the cell's runs, with the seeds 0, 1, 2 …; an entry of the results."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    best = train(cell.task, range(runs))
    return {
        "set": cell.set,
        "start": cell.start,
        "layers": cell.layers,
        "arm": cell.arm,
        "rate": cell.task.rate,
        "losses": [float(f"{loss:.4g}") for loss in best.tolist()],
        "seconds": round(time.perf_counter() - start, 1),
    }


def agrees(found: Losses, published: str) -> bool:
    """Whether the means differ by at most two standard errors, or less than the paper rounds."""
    rounding = 0.5 * 10.0 ** -len(published.partition(".")[2])
    error = standard_error(found.losses)
    allowed = rounding if math.isnan(error) else max(2 * error, rounding)
    return abs(found.mean - float(published)) <= allowed


def compared(
    title: str, found: Iterable[Losses], published: Published, baseline: str, note: str = ""
) -> Table:
    """One row a cell: ours, the paper's, and how sure it is that it beats the baseline's mean."""
    cells = list(found)
    plain = {cell.layers: cell for cell in cells if cell.arm == baseline}
    rows = []
    for cell in sorted(cells, key=lambda cell: cell.layers):
        paper = published.get((cell.set, cell.layers, cell.arm), "")
        diverged = sum(not math.isfinite(loss) for loss in cell.losses)
        found_p = p_value(cell.losses, plain[cell.layers].losses)
        rows.append(
            (
                str(cell.layers),
                cell.arm,
                f"{diverged} diverged" if diverged else f"{cell.mean:.4f}",
                "–" if diverged else f"{standard_error(cell.losses):.4f}",
                f"{median(cell.losses):.2g}",
                paper,
                "" if not paper else "yes" if agrees(cell, paper) else "no",
                "" if cell.arm == baseline else format_p(found_p),
            )
        )
    headings = ("layers", "activation", "mean", "s. e.", "median", "paper", "agrees", "p")
    return Table(title, headings, rows, f"{READING} {note}".rstrip(), names=2)


def by_rate(title: str, found: Iterable[Losses], arms: Sequence[str]) -> Table:
    """Means of arms by learning rate."""
    cells = {(cell.layers, cell.arm, cell.rate): cell for cell in found if cell.arm in arms}
    rates = sorted({rate for _, _, rate in cells})
    rows = [
        (str(layers), arm, *(f"{cells[layers, arm, rate].mean:.4f}" for rate in rates))
        for layers in sorted({layers for layers, _, _ in cells})
        for arm in arms
    ]
    headings = ("layers", "activation", *(f"{rate:g}" for rate in rates))
    return Table(title, headings, rows, "Columns are learning rates.", names=2)


def distribution(title: str, found: Iterable[Losses]) -> Table:
    """How many runs of each cell ended in which interval."""
    edges = (0.0, *INTERVALS, math.inf)
    names = [f"< {INTERVALS[0]:g}"]
    names += [f"{low:g}–{high:g}" for low, high in pairwise(INTERVALS)] + [f"≥ {INTERVALS[-1]:g}"]
    rows = []
    for cell in sorted(found, key=lambda cell: cell.layers):
        counts, _ = np.histogram(cell.losses, edges)
        rows.append((str(cell.layers), cell.arm, *map(str, counts)))
    return Table(title, ("layers", "activation", *names), rows, names=2)


def main(
    file: str,
    title: str,
    cells: Callable[[int], Sequence[Cell]],
    tables: Callable[[Run], Sequence[Table]],
) -> None:
    """The command line of an experiment.

    Args:
        file: its name.
        title: what it is.
        cells: all of them, for a number of epochs.
        tables: made of the run.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--runs", type=positive, default=100, help="a cell")
    parser.add_argument("--epochs", type=positive, default=EPOCHS)
    add_options(parser)
    arguments = parser.parse_args()
    # The longest first, or the last would be waited for.
    todo = sorted(cells(arguments.epochs), key=lambda cell: -cell.layers / cell.task.batch_size)
    calls = [(learn, (cell, arguments.runs)) for cell in todo]
    results = all_of(calls, arguments.jobs, "cells")
    made_by = command(f"examples/{file}", parser, arguments)
    settings = {"runs": arguments.runs, "epochs": arguments.epochs}
    finish(Run(made_by, settings, results), tables, arguments.json)
