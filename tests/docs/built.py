"""The built site as a set of pages that link to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, and the attribute that says from where.
_FETCHED = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}


@dataclass(slots=True)
class Parsed:
    """One page.

    Attributes:
        anchors: what a link to the page may name behind ``#``.
        links: where its ``<a href>`` go, as written.
        fetched: what it loads, as written.
    """

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)


class _Parser(HTMLParser):
    def __init__(self, parsed: Parsed) -> None:
        super().__init__()
        self.parsed = parsed

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.parsed.anchors |= {values[name] or "" for name in ("id", "name") if name in values}
        if tag == "a" and values.get("href") is not None:
            self.parsed.links.append(values["href"] or "")
        where = values.get(_FETCHED.get(tag, ""))
        # A <link> that says what the page is, or what comes next, loads nothing.
        if where and values.get("rel") not in ("canonical", "next", "prev"):
            self.parsed.fetched.append(where)


def parse(site: Path) -> dict[Path, Parsed]:
    """Each page of the site; not the one that a server shows for addresses that do not exist."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        if path != site / "404.html":
            pages[path] = Parsed()
            _Parser(pages[path]).feed(path.read_text(encoding="utf-8"))
    return pages


def target(page: Path, link: str) -> tuple[Path, str] | None:
    """The file and the anchor that a link on a page goes to; None where it leaves the site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    return path, unquote(parts.fragment)


def clicks(pages: dict[Path, Parsed], start: Path) -> dict[Path, int]:
    """How many links lie between the start page and each page that can be reached from it."""
    found = {start: 0}
    queue = [start]
    for page in queue:
        for link in pages[page].links:
            to = target(page, link)
            if to is not None and to[0] in pages and to[0] not in found:
                found[to[0]] = found[page] + 1
                queue.append(to[0])
    return found
