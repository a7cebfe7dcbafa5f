"""The command line that experiments share: processes, where a run is kept, what made it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from gradscope.examples.experiments.results import Run, Table, write_run

__all__ = ["Call", "add_options", "all_of", "command", "finish", "natural", "positive"]

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments, which a process can be given."""


def positive(text: str) -> int:
    """A whole number above zero, as the type of an argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few; give 1 or more")
    return number


def natural(text: str) -> int:
    """A whole number, zero or above."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def _new_file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give the name of a file")
    return path


def add_options(parser: argparse.ArgumentParser, *, processes: bool = True) -> None:
    """Those that every experiment has."""
    if processes:
        help_ = "processes, of one thread each"
        parser.add_argument("--jobs", type=positive, default=2, help=help_)
    help_ = "where to write what the tables are made of"
    parser.add_argument("--json", type=_new_file, help=help_)


def command(program: str, parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """What makes a run again: ``program`` with the options that are not the default.

    Folders are left out: they are somebody's own.
    """
    words = [f"python {program}"]
    for name, value in vars(arguments).items():
        default = parser.get_default(name)
        if isinstance(value, (list, tuple)):
            # Options of several words have several as their default; others take them with commas.
            space = isinstance(default, (list, tuple))
            is_default = list(value) == list(default) if space else ",".join(value) == default
            shown = (" " if space else ",").join(map(str, value))
        else:
            is_default = value == default
            shown = "FOLDER" if isinstance(value, Path) else shlex.quote(str(value))
        if is_default or name in ("jobs", "json", "device"):
            continue
        option = f"--{name.replace('_', '-')}"
        words.append(option if value is True else f"{option} {shown}")
    return " ".join(words)


def all_of(calls: Sequence[Call], jobs: int, what: str) -> list[Any]:
    """What the calls return, in their order; so many run at a time, and a bar counts them."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(function, *arguments) for function, arguments in calls]
        return [future.result() for future in track(waiting, what, console=Console(stderr=True))]


def finish(run: Run, tables: Callable[[Run], Sequence[Table]], kept: Path | None) -> None:
    """Keeps the run where that is asked for, and prints its tables."""
    if kept is not None:
        write_run(kept, run)
    console = Console()
    for table in tables(run):
        console.print(table.printed())
