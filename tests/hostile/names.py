"""Tensors whose names would confuse a terminal, a page, or whoever reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.hostile.gadgets import tensor, text
from tests.hostile.pickles import around, legacy
from tests.hostile.valid import safetensors, zipped

__all__ = ["NAMES", "named_oddly"]

Write = Callable[[Path], Path]

NAMES = {
    "colours": "\x1b[31mred\x1b[0m.weight",
    "a cleared screen": "\x1b[2J\x1b[H.weight",
    "a title of the terminal": "\x1b]0;owned\x07.weight",
    "a link": "\x1b]8;;http://x.invalid\x1b\\here\x1b]8;;\x1b\\.weight",
    "eight-bit control characters": "\x9b31m.weight",
    "HTML": "<script>alert(1)</script>.weight",
    "markup": "[bold red]x[/bold red][/].weight",
    "a template": "{{ 7 * 7 }}{% raw %}.weight",
    "a format": "{0.__class__}%s%n.weight",
    "newlines": "a\nb\r\nc.weight",
    "a line separator": "a\u2028b\u0085c.weight",
    "NUL": "a\0b.weight",
    "backspaces": "secret\b\b\b\b\b\bopen.weight",
    "half a character": "\ud800.weight",
    "very long": "w" * 1_000_000 + ".weight",
    "many points": "." * 100_000 + "weight",
    "bidirectional marks": "\u202egpj.exe\u2066.weight",
    "combining marks": "e" + "\u0301" * 1000 + ".weight",
    "wide characters": "\uff57\U0001f4a3.weight",
    "no character": "",
    "spaces": "   ",
    "a path": "../../../etc/passwd",
    "attributes": "__class__.__init__.__globals__.weight",
}


def named_oddly() -> Iterator[tuple[str, bool, Write]]:
    """What is wrong, whether it may be read for that, and how to write it."""
    for wrong, name in NAMES.items():
        data = b"\x80\x02}" + text(name) + tensor() + b"s."
        header = {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}

        def old(path: Path, data: bytes = data) -> Path:
            path.write_bytes(legacy(data))
            return path

        yield f"a name with {wrong} in a zip", True, partial(zipped, entries=around(data))
        yield f"a name with {wrong} in an old file", True, old
        safe = partial(safetensors, header=header, data=bytes(16))
        yield f"a name with {wrong} in safetensors", True, safe
