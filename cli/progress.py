"""A progress bar on stderr for work that takes a while."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """Yields what is to be told (what is going on, which share is done).

    On a terminal it draws a bar. Elsewhere it writes a line whenever what is going on changes its
    first word, so that a log shows life without filling up.

    Args:
        quiet: nothing is told.
    """
    if quiet:
        yield lambda what, share: None
        return
    if not sys.stderr.isatty():
        said: set[str] = set()

        def note(what: str, share: float) -> None:
            stage = what.split(":")[0]
            if stage not in said:
                said.add(stage)
                typer.echo(f"{stage} ({share:.0%})", err=True)

        yield note
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)
