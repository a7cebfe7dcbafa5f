"""The code blocks of a page of the documentation, as a test runs them.

``test_blocks.py`` says what a page has to keep to.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What begins first wins: a fence in a comment is part of the comment, and the other way around.
_PARTS = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,})(?P<language>[^\s`]*)(?P<rest>[^\n`]*)\n"
    r"(?P<code>.*?)^(?P=indent)(?P=fence)[ \t]*$"
    r"|^[ \t]*<!--(?P<comment>.*?)-->[ \t]*$",
    flags=re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        line: of its first line of code, counted from 1.
        language: ``python``, ``sh``, ...; empty where none is said.
        code: without the indentation of the fence.
        marks: the comments right above the fence, from top to bottom.
    """

    line: int
    language: str
    code: str
    marks: tuple[str, ...]

    @property
    def file(self) -> str | None:
        """The file that it is written to, which its first line names."""
        found = _FILE.match(self.code)
        return found[1] if found else None

    @property
    def not_run(self) -> str | None:
        """Why it is not run; None where it is."""
        return self._marked(r"not run:(.*)")

    @property
    def status(self) -> int:
        """The exit status that its commands have to end with."""
        return int(self._marked(r"exits (\d+)") or 0)

    @property
    def is_output(self) -> bool:
        return "output" in self.marks

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command with the lines of output that are shown below it (``console`` only)."""
        command, shown = "", list[str]()
        for line in self.code.replace("\\\n", "").splitlines():
            prompted = line.removeprefix("$ ")
            if self.language == "console" and prompted == line:
                shown.append(line)
                continue
            if command:
                yield command, shown
            command, shown = re.sub(r"(^|\s+)#\s.*$", "", prompted).strip(), []
        if command:
            yield command, shown

    def _marked(self, pattern: str) -> str | None:
        found = [match for mark in self.marks if (match := re.fullmatch(pattern, mark))]
        return found[0][1].strip() if found else None


def blocks(path: Path) -> list[Block]:
    """The blocks of a page in their order, those in comments among them."""
    return list(_blocks(path.read_text(encoding="utf-8"), 1))


def _blocks(text: str, line: int) -> Iterator[Block]:
    marks: list[str] = []
    end = 0
    for part in _PARTS.finditer(text):
        if text[end : part.start()].strip():
            marks = []
        end = part.end()
        if part["comment"] is None:
            yield Block(
                line + text.count("\n", 0, part.start("code")),
                part["language"],
                textwrap.dedent(part["code"]),
                tuple(marks),
            )
            marks = []
        elif "```" in part["comment"]:
            yield from _blocks(part["comment"], line + text.count("\n", 0, part.start("comment")))
            marks = []
        else:
            marks.append(part["comment"].strip())
