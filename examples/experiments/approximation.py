"""What the paper's two approximation experiments share: cells of many runs, set beside the paper's.

A cell is one network, learned so many times from different weights and data; the seeds of all
cells are the same, and so are the weights, data and orders of what differs in its activation only.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy import stats

from gradscope.examples.experiments.ensemble import Task, train
from gradscope.examples.experiments.results import Run, Table, mean, standard_error, write_run

__all__ = [
    "Cell",
    "Losses",
    "Published",
    "agrees",
    "by_rate",
    "compared",
    "distribution",
    "main",
    "p_value",
    "uniform",
]

EDGE = math.sqrt(3)
"""Inputs are drawn from (-EDGE, EDGE)."""

EPOCHS = 300

INTERVALS = (0.001, 0.01, 0.05, 0.1, 0.2)
"""Where losses are counted between; the paper's own are in its figures only."""

Published = Mapping[tuple[str, int, str], str]
"""The paper's mean by set, layers and arm, as it is printed."""


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
        # JSON has no infinity: a run that diverged in its first epoch has none.
        losses = (math.inf if loss is None else loss for loss in entry["losses"])
        return cls(**{**entry, "losses": tuple(losses)})

    @property
    def mean(self) -> float:
        return mean(self.losses)


def uniform(count: int, inputs: int, generator: torch.Generator) -> torch.Tensor:
    """The paper's inputs, ``(inputs, count)``."""
    return torch.empty(inputs, count).uniform_(-EDGE, EDGE, generator=generator)


def learned(cell: Cell, runs: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    start = time.perf_counter()
    best = train(cell.task, range(runs)).best
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


def p_value(better: Sequence[float], worse: Sequence[float]) -> float:
    """How likely a mean so much lower is by chance: the signs of the runs' differences are flipped.

    NaN where a run diverged, as the mean is none.
    """
    difference = np.subtract(better, worse)
    if not np.isfinite(difference).all():
        return math.nan
    test = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        alternative="less",
        n_resamples=99_999,
        batch=10_000,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def compared(title: str, found: Iterable[Losses], published: Published, baseline: str) -> Table:
    """One row a cell: ours, the paper's, and how sure it is that it beats the baseline's mean."""
    cells = list(found)
    plain = {cell.layers: cell for cell in cells if cell.arm == baseline}
    rows = []
    for cell in sorted(cells, key=lambda cell: cell.layers):
        paper = published.get((cell.set, cell.layers, cell.arm), "")
        versus = (
            ""
            if cell.arm == baseline
            else format_p(p_value(cell.losses, plain[cell.layers].losses))
        )
        rows.append(
            (
                str(cell.layers),
                cell.arm,
                f"{cell.mean:.4f}",
                f"{standard_error(cell.losses):.4f}" if math.isfinite(cell.mean) else "–",
                f"{median(cell.losses):.2g}",
                paper,
                "" if not paper else "yes" if agrees(cell, paper) else "no",
                versus,
            )
        )
    headings = ("layers", "activation", "mean", "s. e.", "median", "paper", "agrees", "p")
    note = (
        "Agrees: within two standard errors (s. e.) of ours, the paper's being unknown, or its "
        "rounding. "
        f"p: that the mean is lower than {baseline}'s by chance."
    )
    return Table(title, headings, rows, note, names=2)


def format_p(p: float) -> str:
    """Short; a dash where there is none."""
    return "–" if math.isnan(p) else f"{p:.2g}" if p >= 1e-4 else "< 1e-4"


def by_rate(title: str, found: Iterable[Losses], plain: str, artificial: str) -> Table:
    """Means of the plain activation by learning rate, beside the artificial derivative's."""
    cells = {(cell.layers, cell.arm, cell.rate): cell for cell in found}
    rates = sorted({rate for _, arm, rate in cells if arm == plain})
    (usual,) = {rate for _, arm, rate in cells if arm == artificial}
    rows = [
        (
            str(layers),
            *(f"{cells[layers, plain, rate].mean:.4f}" for rate in rates),
            f"{cells[layers, artificial, usual].mean:.4f}",
        )
        for layers in sorted({layers for layers, _, _ in cells})
    ]
    headings = ("layers", *(f"{rate:g}" for rate in rates), f"{artificial}, {usual:g}")
    return Table(title, headings, rows)


def distribution(title: str, found: Iterable[Losses]) -> Table:
    """How many runs of each cell ended in which interval."""
    edges = (0.0, *INTERVALS, math.inf)
    names = [f"< {INTERVALS[0]:g}"]
    names += [f"– {edge:g}" for edge in INTERVALS[1:]] + [f"> {INTERVALS[-1]:g}"]
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
    parser.add_argument("--runs", type=int, default=100, help="a cell")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--json", type=Path, help="where to write what the tables are made of")
    arguments = parser.parse_args()
    # The longest first, or the last would be waited for.
    todo = sorted(cells(arguments.epochs), key=lambda cell: -cell.layers / cell.task.batch_size)
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(learned, cell, arguments.runs) for cell in todo]
        bar = track(waiting, "cells", console=Console(stderr=True))
        results = [future.result() for future in bar]
    run = Run(
        f"python examples/{file}",
        {"runs": arguments.runs, "epochs": arguments.epochs, "seeds": f"0 to {arguments.runs - 1}"},
        results,
    )
    console = Console()
    for table in tables(run):
        console.print(table.printed())
    if arguments.json is not None:
        write_run(arguments.json, run)
