"""docs/reference/cli.md: every command with its arguments, options and exit statuses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from gradscope import errors
from gradscope.cli import app
from pages.parts import DOCS, cell, table

INTRODUCTION = """\
# Command line

The report goes to stdout, progress and warnings to stderr. Colours are left out where stdout is no
terminal or `NO_COLOR` is set. `gradscope COMMAND --help` prints what stands here.

`--debug`, anywhere on the line, shows the traceback of an error.

## Exit statuses

"""
STATUSES = [
    ("0", "nothing found at or above `--fail-on`; `fix`: fixed, or nothing to fix"),
    ("1", "findings; `fix`: not fixed"),
]
INTERRUPTED = ("130", "interrupted from the keyboard")


def pages() -> Iterator[tuple[Path, str]]:
    commands = [
        (command.name or "", command.callback)
        for command in app.registered_commands
        if command.callback is not None
    ]
    yield (
        DOCS / "reference" / "cli.md",
        INTRODUCTION
        + table(("status", "meaning"), [*STATUSES, *raised(), INTERRUPTED])
        + "\n`gradscope run` exits with the status of the script.\n"
        + "\n## Commands\n\n"
        + table(
            ("command", "what it does"),
            [
                (f"[`gradscope {name}`](#gradscope-{name})", about(run).split("\n\n")[0])
                for name, run in commands
            ],
        )
        + "".join(section(name, run) for name, run in commands),
    )


def raised() -> list[tuple[str, str]]:
    """What each exit status of an error stands for, as the errors say themselves."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    return [
        (
            str(status),
            "; ".join(
                f"`{kind.__name__}`: {cell(inspect.getdoc(kind) or '').rstrip('.')}"
                for kind in kinds
                if kind.exit_status == status
            ),
        )
        for status in sorted({kind.exit_status for kind in kinds} - {1})
    ]


def section(name: str, run: Callable[..., Any]) -> str:
    hints = get_type_hints(run, include_extras=True)
    arguments, options, usage = [], [], []
    for entry in inspect.signature(run).parameters.values():
        hint, info = parted(hints[entry.name])
        if isinstance(info, ArgumentInfo):
            shown = info.metavar or entry.name.upper()
            choices = placeholder(hint) if is_choice(hint) else ""
            value = f"`{shown}`" + (f": `{choices}`" if choices else "")
            arguments.append((value, default(entry), cell(info.help or "")))
            usage.append(shown if entry.default is inspect.Parameter.empty else f"[{shown}]")
        elif isinstance(info, OptionInfo) and not info.hidden:
            options.append((written(entry, hint, info), default(entry), cell(info.help or "")))
    line = " ".join(["gradscope", name, "[OPTIONS]" if options else "", *usage])
    return (
        f"\n## gradscope {name}\n\n```text\n{' '.join(line.split())}\n```\n\n{about(run)}\n"
        + ("\n" + table(("argument", "default", "meaning"), arguments) if arguments else "")
        + ("\n" + table(("option", "default", "meaning"), options) if options else "")
    )


def about(run: Callable[..., Any]) -> str:
    return inspect.getdoc(run) or ""


def parted(hint: Any) -> tuple[Any, ParameterInfo]:
    """The type of a parameter, and what typer is told of it."""
    kind, info = get_args(hint)
    return kind, info


def written(entry: inspect.Parameter, kind: Any, info: OptionInfo) -> str:
    # Inside Annotated, typer takes the first name for a default.
    names = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
    names = names or [f"--{entry.name.replace('_', '-')}"]
    value = "" if kind is bool else f" {info.metavar or placeholder(kind)}"
    return ", ".join(f"`{name}{value}`" for name in names)


def placeholder(kind: Any) -> str:
    kinds = [each for each in (get_args(kind) or (kind,)) if each is not type(None)]
    (first,) = kinds
    if get_origin(first) is list:
        return placeholder(first)
    if is_choice(first):
        return "|".join(str(member.value) for member in first)
    return {int: "N", float: "X", Path: "FILE"}.get(first, "TEXT")


def is_choice(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def default(entry: inspect.Parameter) -> str:
    value = entry.default
    if value is None or value is False or value is inspect.Parameter.empty:
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"
