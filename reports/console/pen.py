"""Text for one console: in characters that its encoding has, and measured in its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradscope.reports.console.fitting import fitted
from gradscope.reports.console.symbols import encodable
from gradscope.reports.nodes import Mark, Tone
from gradscope.reports.wording import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["STYLES", "Pen"]

STYLES = {
    Tone.PLAIN: "",
    Tone.GOOD: "green",
    Tone.WARN: "yellow",
    Tone.BAD: "red",
    Tone.MUTED: "dim",
}
"""A colour never stands alone: beside it is a symbol, a word or the number itself."""
_WINDOWS = "cp437"
"""The old Windows console has these symbols in every font, and few others in any."""


class Pen:
    """Writes for one console: what it needs to know of that console stands here.

    Attributes:
        width: in cells.
    """

    def __init__(self, console: Console) -> None:
        self.width = console.width
        self._encoding = console.encoding
        self._symbols = _WINDOWS if console.legacy_windows else console.encoding

    def plain(self, text: str) -> str:
        """The text as this console can show it; to be done before anything is measured."""
        return encodable(visible(text), self._encoding, self._symbols)

    def text(self, text: str, style: str = "") -> Text:
        from rich.text import Text

        return Text(self.plain(text), style=style)

    def name(self, name: str, width: int) -> str:
        """A name in so many cells, its middle cut."""
        return self.plain(fitted(self.plain(name), width))

    def marked(self, mark: Mark, text: str, *, strong: bool = False) -> Text:
        """The mark's symbol and word in its colour, then the text."""
        style = f"bold {STYLES[mark.tone]}".strip() if strong else STYLES[mark.tone]
        drawn = self.text("").append_text(self.text(f"{mark.symbol} {mark.word}", style))
        if text:
            drawn.append("  ").append_text(self.text(text, "bold" if strong else ""))
        return drawn

    def bar(self, share: float, length: int) -> str:
        whole, half = divmod(round(share * length * 2), 2)
        return ("━" * whole + "╸" * half).ljust(length)
