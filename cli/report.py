"""``gradscope report``: a saved report or a run store, in any form."""

from __future__ import annotations

from typing import Annotated

import typer

from gradscope.cli import options
from gradscope.cli.options import Format
from gradscope.records import Report

__all__ = ["opened"]

NAME = "report"

FILE = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="A report that was saved with --format json, or the store of a training run, which "
        "may still be running.",
    ),
]


def run(
    file: FILE,
    form: options.OutputFormat = Format.TEXT,
    output: options.Output = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show a saved report, or what a training run's store tells.

    Exits 0; 2 for wrong usage, 3 when FILE cannot be read.
    """
    from gradscope.cli.writing import check_writable, write

    detail = options.detail(quiet, verbose)
    if output is not None:
        check_writable(output, folder=False)
    write(opened(file), form, output, detail)


def opened(path: str) -> Report:
    """The report that a file is, or that a run store makes.

    Raises:
        ReportError: it is neither.
        StoreError: the store cannot be read.
    """
    from gradscope.reports import load_report
    from gradscope.store import is_run_store

    if is_run_store(path):
        from gradscope.store.report import run_report

        return run_report(path)
    return load_report(path)
