"""``--baseline``: a report that was saved before, and what it makes of a new one."""

from __future__ import annotations

from pathlib import Path

import typer

from gradscope.errors import ReportError
from gradscope.records import Report

__all__ = ["held_against", "opened_baseline"]


def opened_baseline(path: Path) -> Report:
    """The report that is the baseline.

    Raises:
        ReportError: it cannot be read, or is no report of this version.
    """
    from gradscope.reports import load_report

    try:
        return load_report(path)
    except ReportError as error:
        raise ReportError(
            f"--baseline: {error} A baseline is a report; save one with 'gradscope scan TARGET "
            "--fail-on never --format json --output BASELINE.json'."
        ) from error


def held_against(report: Report, baseline: Report, path: Path) -> Report:
    """The report with what the baseline has marked as known; warns where that is of another."""
    from gradscope.reports.baseline import against, mismatch
    from gradscope.reports.wording import visible

    if why := mismatch(report, baseline):
        typer.echo(
            f"gradscope: {visible(str(path))} may be the baseline of another target: "
            f"{visible(why)}. It counts all the same.",
            err=True,
        )
    return against(report, baseline, str(path))
