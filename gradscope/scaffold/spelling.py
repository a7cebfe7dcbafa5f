"""Python as a formatter would leave it: literals, places of files, imports, comments."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable
from pathlib import Path

__all__ = ["called", "comment", "from_import", "literal", "on_the_path", "place", "shown"]

_WIDTH = 88
"""Of a line, as ruff and black have it where nothing else is set."""

_COMMENT_WIDTH = 96


def literal(text: str) -> str:
    """A string literal in double quotes, or in single ones where that takes fewer escapes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    spelled = shown(text.replace("\\", "\\\\")).replace(quote, "\\" + quote)
    return f"{quote}{spelled}{quote}"


def shown(text: str) -> str:
    """The text on one line, with what cannot be seen spelled out."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def comment(text: str, indent: str = "") -> list[str]:
    """A comment, over as many lines as it takes."""
    first = f"{indent}# "
    return textwrap.wrap(
        shown(" ".join(text.split())),
        _COMMENT_WIDTH,
        initial_indent=first,
        subsequent_indent=first,
        break_long_words=False,
        break_on_hyphens=False,
    )


def from_import(module: str, names: Iterable[str]) -> str:
    """``from module import names``."""
    names = sorted(names)
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])


def called(function: str, arguments: Iterable[str]) -> list[str]:
    """A call as one line, or with its arguments on lines of their own."""
    arguments = list(arguments)
    indent = " " * (len(function) - len(function.lstrip()))
    together = ", ".join(arguments)
    if len(f"{function}({together})") <= _WIDTH:
        return [f"{function}({together})"]
    if len(f"{indent}    {together}") <= _WIDTH:
        return [f"{function}(", f"{indent}    {together}", f"{indent})"]
    return [f"{function}(", *(f"{indent}    {each}," for each in arguments), f"{indent})"]


def place(name: str, target: Path, output: Path) -> str:
    """The constant ``name`` that says where ``target`` is, seen from the file ``output``."""
    left, right = _located(target, output)
    if not left:
        line = f"{name} = Path({right})"
        return line if len(line) <= _WIDTH else f"{name} = Path(\n    {right}\n)"
    if len(f"{name} = {left} / {right}") <= _WIDTH:
        return f"{name} = {left} / {right}"
    return f"{name} = (\n{_divided(left, right, '    ')}\n)"


def on_the_path(folder: Path, output: Path) -> str:
    """The statement that makes importable what lies in ``folder``, seen from ``output``.

    It is one that may stand before imports, so no constant is made for the folder.
    """
    left, right = _located(folder, output)
    if not left:
        return "\n".join(called("sys.path.insert", ["0", right]))
    lines = called("sys.path.insert", ["0", f"str({left} / {right})"])
    if max(map(len, lines)) > _WIDTH:
        inner = _divided(left, right, " " * 8)
        return f"sys.path.insert(\n    0,\n    str(\n{inner}\n    ),\n)"
    return "\n".join(lines)


def _located(target: Path, output: Path) -> tuple[str, str]:
    """The folder of the file, and what is behind it; or nothing, and all of the path.

    Relative is what lies in one project with the file: below it, or below the working directory.
    """
    here, target = output.resolve().parent, target.resolve()
    if any(target.is_relative_to(each) for each in (here, Path.cwd())):
        relative = Path(os.path.relpath(target, here)).as_posix()
        return "Path(__file__).resolve().parent", literal(relative)
    return "", literal(str(target))


def _divided(left: str, right: str, indent: str) -> str:
    line = f"{indent}{left} / {right}"
    return line if len(line) <= _WIDTH else f"{indent}{left}\n{indent}/ {right}"
