"""Markdown as a browser would show it: read by a real parser, and its HTML taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from markdown_it import MarkdownIt

__all__ = ["Shown", "shown"]

_VOID = {"br", "hr", "img"}


@dataclass
class Shown(HTMLParser):
    """What is seen.

    Attributes:
        tags: every element that was opened.
        plain: the text outside of code, where GitHub looks for mentions and references.
        codes: the text of each piece of code.
        rows: the texts of the cells of each row of the tables.
        folds: the text of each summary.
        links: targets of links and pictures.
    """

    tags: list[str] = field(default_factory=list)
    text: str = ""
    plain: str = ""
    codes: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    folds: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    within: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("href", "src")]
        if tag not in _VOID:
            self.within.append(tag)
        lists = {"code": self.codes, "summary": self.folds}
        if tag in lists:
            lists[tag].append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        assert self.within.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "code" in self.within:
            self.codes[-1] += data
        else:
            self.plain += data
        if "summary" in self.within:
            self.folds[-1] += data
        if "td" in self.within or "th" in self.within:
            self.rows[-1][-1] += data


def shown(markdown: str) -> Shown:
    """What is seen of the Markdown; elements that are not closed fail."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = Shown()
    found.feed(parser.render(markdown))
    found.close()
    assert found.within == []
    return found
