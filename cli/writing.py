"""Where reports go: stdout, or a file that is written whole or not at all."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.cli.options import Format
from gradscope.errors import UsageError
from gradscope.records import Report

if TYPE_CHECKING:
    from gradscope.reports.nodes import Detail, Document

__all__ = ["check_writable", "with_command", "write", "write_document", "write_file"]


def with_command(report: Report) -> Report:
    """The report with the command line that made it, which is part of where it was made."""
    as_module = Path(sys.argv[0]).name == "__main__.py"
    program = ["python", "-m", "gradscope.cli"] if as_module else [Path(sys.argv[0]).name]
    command = shlex.join([*program, *sys.argv[1:]])
    return replace(report, environment={"command": command, **report.environment})


def write(report: Report, form: Format, output: Path | None, detail: Detail | None = None) -> None:
    """Renders the report and writes it to ``output``, or to stdout without one."""
    from gradscope import reports

    for_programs = {
        Format.JSON: reports.render_json,
        Format.SARIF: reports.render_sarif,
        Format.JUNIT: reports.render_junit,
    }
    write_document(
        lambda: reports.view(report),
        {each: partial(render, report) for each, render in for_programs.items()},
        form,
        output,
        detail,
    )


def write_document(
    document: Callable[[], Document],
    for_programs: Mapping[Format, Callable[[], str]],
    form: Format,
    output: Path | None,
    detail: Detail | None = None,
) -> None:
    """Writes what a reader sees, or what a program reads, to ``output`` or to stdout.

    Beside ``report.md`` its charts are written, as ``report-1.svg`` and so on.

    Args:
        document: makes what a reader sees.
        for_programs: makes what a program reads, by its form.
        form: what is wanted.
        output: None for stdout.
        detail: how much of it text shows.
    """
    from gradscope.reports.nodes import Detail

    detail = detail or Detail.NORMAL
    if form is Format.TEXT and output is None:
        from rich.console import Console

        from gradscope.reports import render_terminal

        render_terminal(document(), Console(), detail)
        return
    if form is Format.MARKDOWN and output is not None:
        from gradscope.reports.markdown import markdown_with_pictures

        text, pictures = markdown_with_pictures(document(), output.stem)
        for name, svg in pictures.items():
            write_file(output.with_name(name), svg)
        write_file(output, text)
        return
    text = for_programs[form]() if form in for_programs else rendered(document(), form, detail)
    if output is not None:
        write_file(output, text)
        return
    if not text.endswith("\n"):
        text += "\n"
    stream = getattr(sys.stdout, "buffer", None)
    if form is Format.TEXT or stream is None:
        sys.stdout.write(text)
    else:
        # These say by themselves that they are UTF-8, whatever a console would show.
        sys.stdout.flush()
        stream.write(text.encode())
        stream.flush()


def rendered(document: Document, form: Format, detail: Detail) -> str:
    """What a reader sees, as text of that form."""
    if form is Format.HTML:
        from gradscope.reports.html import render_page

        return render_page(document)
    if form is Format.MARKDOWN:
        from gradscope.reports import render_markdown

        return render_markdown(document)
    assert form is Format.TEXT, f"nothing renders {form.value}"
    from io import StringIO

    from rich.console import Console

    from gradscope.reports import render_terminal

    console = Console(file=StringIO(), width=100, color_system=None)
    render_terminal(document, console, detail)
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
