"""Where reports go: stdout, or a file that is written whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gradscope.cli.options import Format
from gradscope.errors import UsageError
from gradscope.records import Report

__all__ = ["check_writable", "write", "write_file"]


def write(report: Report, form: Format, output: Path | None) -> None:
    """Renders the report and writes it to ``output``, or to stdout without one."""
    if form is Format.TEXT and output is None:
        from rich.console import Console

        from gradscope.reports import render_terminal, view

        render_terminal(view(report), Console())
        return
    text = rendered(report, form)
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    else:
        write_file(output, text)


def rendered(report: Report, form: Format) -> str:
    """The report as text of that form."""
    from gradscope import reports

    if form is Format.JSON:
        return reports.render_json(report)
    if form is Format.HTML:
        return reports.render_html(report)
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=100, color_system=None)
    reports.render_terminal(reports.view(report), console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def check_writable(path: Path, *, folder: bool) -> None:
    """Refuses, before any work is done, a place where the result could not be written.

    Raises:
        UsageError: it cannot.
    """
    if path.exists() and path.is_dir() is not folder:
        raise UsageError(f"{path} is {'a file' if folder else 'a folder'}; choose another name.")
    place = path if folder else path.parent
    while folder and not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{path} cannot be written: {place} is no folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{path} is not writable; choose another place.")


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file in one piece: a reader sees the old content or the new, never half of it.

    Raises:
        UsageError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
