"""Where reports go: stdout, or a file that is written whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.cli.options import Format
from gradscope.errors import UsageError
from gradscope.records import Report

if TYPE_CHECKING:
    from gradscope.reports.nodes import Document

__all__ = ["check_writable", "write", "write_document", "write_file"]


def write(report: Report, form: Format, output: Path | None) -> None:
    """Renders the report and writes it to ``output``, or to stdout without one."""
    from gradscope import reports

    write_document(lambda: reports.view(report), lambda: reports.render_json(report), form, output)


def write_document(
    document: Callable[[], Document], json: Callable[[], str], form: Format, output: Path | None
) -> None:
    """Writes what a reader sees, or what a program reads, to ``output`` or to stdout.

    Args:
        document: makes what a reader sees.
        json: makes what a program reads.
        form: which of the two is wanted, and as what.
        output: None for stdout.
    """
    if form is Format.TEXT and output is None:
        from rich.console import Console

        from gradscope.reports import render_terminal

        render_terminal(document(), Console())
        return
    text = json() if form is Format.JSON else rendered(document(), form)
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    else:
        write_file(output, text)


def rendered(document: Document, form: Format) -> str:
    """What a reader sees, as text of that form."""
    if form is Format.HTML:
        from gradscope.reports.html import render_page

        return render_page(document)
    from io import StringIO

    from rich.console import Console

    from gradscope.reports import render_terminal

    console = Console(file=StringIO(), width=100, color_system=None)
    render_terminal(document, console)
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
