"""Plain text as GitHub-flavoured Markdown that shows that text, and nothing else.

A word that could mean something to Markdown, or to what GitHub does with its result (mentions,
references to issues and commits, links of bare addresses, emoji), is set as code: there nothing
has a meaning. Symbols that stand alone become character references. The rest is left readable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from gradscope.reports.wording import shortened, visible

__all__ = ["block_start", "code", "fenced", "html", "html_code", "inline"]

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~&@$]")
_LINKED = re.compile(
    r"://|www\.|gh-\d|:[\w+-]+:"
    r"|(?<![0-9a-z])(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{7,40}(?![0-9a-z])",
    re.IGNORECASE,
)
"""What becomes a link or a picture though none of its characters is special."""
_ASCII_MARKS = re.compile(r"[!-/:-@\[-`{-~]")
_PARTS = re.compile(r"(\(*)(.*?)([.,;:!?]*)", re.DOTALL)
_START = re.compile(r"\d{1,9}(?=[.)](?:\s|$))|(?=[-+=](?:[-+=\s]|$))")


def inline(text: str, longest: int = 1000, *, cell: bool = False) -> str:
    """Running text, on one line.

    Args:
        text: what is to be seen.
        longest: words of more characters lose their middle.
        cell: whether it stands in a table, where a bar ends a cell even in code.
    """
    return _words(text, longest, lambda word: code(word, cell=cell))


def html(text: str, longest: int = 1000) -> str:
    """The same inside an HTML element, where Markdown has no meaning."""
    return _words(text, longest, html_code)


def code(text: str, *, cell: bool = False) -> str:
    """A name: text set as code, to the letter. Nothing of an empty one."""
    text = visible(text)
    if not text or (cell and "|" in text):
        return html_code(text) if text else ""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    # One space at each end is taken off where both are there, so one more is put there.
    taken = text[0] == text[-1] == " " and text.strip()
    pad = " " if taken or text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def html_code(text: str) -> str:
    """The same as an HTML element without a character that Markdown or a table could read."""
    return f"<code>{_references(visible(text))}</code>"


def fenced(lines: tuple[str, ...]) -> str:
    """Lines of code, to the letter."""
    shown = [visible(line) for line in lines]
    runs = (len(run) for line in shown for run in re.findall("`+", line))
    fence = "`" * max(3, 1 + max(runs, default=0))
    return "\n".join((fence, *shown, fence))


def block_start(rendered: str) -> str:
    """Rendered text that stands at the start of a block: no list, rule or heading begins there."""
    start = _START.match(rendered)
    return f"{start[0]}\\{rendered[start.end() :]}" if start else rendered


def _words(text: str, longest: int, as_code: Callable[[str], str]) -> str:
    parts = re.split("( +)", visible(text).strip())
    return "".join(
        part if part.isspace() else _word(shortened(part, longest), as_code) for part in parts
    )


def _word(word: str, as_code: Callable[[str], str]) -> str:
    if not (_SPECIAL.search(word) or _LINKED.search(word)):
        # Quotation marks end no attribute here, and read better as they are.
        return escape(word, quote=False)
    found = _PARTS.fullmatch(word)
    before, core, after = found.groups() if found else ("", word, "")
    if core.endswith(")") and core.count(")") > core.count("("):
        core, after = core[:-1], ")" + after
    if not any(character.isalnum() for character in core):
        return _references(word)
    return f"{before}{as_code(core)}{after}"


def _references(text: str) -> str:
    return _ASCII_MARKS.sub(lambda mark: f"&#{ord(mark[0])};", text)
