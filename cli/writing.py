"""Where reports go: stdout, or a file that is written whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from gradscope.cli.options import Format
from gradscope.errors import UsageError
from gradscope.records import Report

__all__ = ["make_folder", "write", "write_file"]


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


def make_folder(folder: Path) -> Path:
    """Makes a folder for results.

    Raises:
        UsageError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made a folder: {error.strerror}.") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} is not writable; choose another folder.")
    return folder


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file in one piece: a reader sees the old content or the new, never half of it.

    Raises:
        UsageError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            file.write(data)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
