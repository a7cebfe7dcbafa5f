"""The symbols that gradscope prints, and what stands for them where an encoding has them not.

A Windows code page knows a few of them, ASCII none. What it does not know is replaced one
character at a time, before anything is laid out, so that columns stay columns.
"""

from __future__ import annotations

from functools import cache

__all__ = ["ASCII", "encodable", "spelled"]

_LEVELS = dict(zip("▁▂▃▄▅▆▇█", ".:-=+*%#", strict=True))
_BARS = {"━": "#", "╸": "#"}

ASCII = {
    "✓": "+",
    "✗": "x",
    "▲": "!",
    "●": "i",
    "→": "->",
    "↳": "=>",
    "▸": ">",
    "…": "~",
    "–": "-",
    "—": "-",
    "·": "-",
    "─": "-",
    "×": "x",
    "∞": "inf",
    "≥": ">=",
    "≤": "<=",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\N{NO-BREAK SPACE}": " ",
    **_LEVELS,
    **_BARS,
}
_TOGETHER = ("".join(_LEVELS), "".join(_BARS))
"""Of these all or none are replaced: a scale of two kinds of signs cannot be read."""


def encodable(text: str, encoding: str, symbols: str = "") -> str:
    """The text with what the encoding has not in ASCII: symbols by a form, others spelled out.

    Args:
        text: any.
        encoding: that the text is to be written in.
        symbols: the encoding whose symbols may stand; by default the same.
    """
    if text.isascii():
        return text
    text = text.translate(_forms(symbols or encoding))
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode()


def spelled(character: str) -> str:
    """One character in ASCII."""
    return ASCII.get(character) or character.encode("ascii", "backslashreplace").decode()


@cache
def _forms(encoding: str) -> dict[int, str]:
    """What stands for the symbols that the encoding has not."""
    lost = {symbol for symbol in ASCII if not _shows(symbol, encoding)}
    for group in _TOGETHER:
        if lost.intersection(group):
            lost.update(group)
    return {ord(symbol): ASCII[symbol] for symbol in lost}


def _shows(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
