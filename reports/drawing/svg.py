"""Drawings as inline SVG: a Vega-Lite specification in, one ``<svg>`` out, without a browser.

Colours are CSS variables of the page that holds the drawing, so that one drawing is legible in
light and in dark.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

__all__ = ["HEIGHT", "STYLE", "WIDTH", "as_one", "drawn", "windowed"]

WIDTH = 400
HEIGHT = 220
"""Of the plot, in pixels. A script gives it the width of its place in the page."""

STYLE: dict[str, Any] = {
    "aria": False,
    "background": "transparent",
    "font": "system-ui, sans-serif",
    # Where a reader's font is wider than the one that was measured, nothing is cut.
    "padding": {"left": 12, "top": 4, "right": 12, "bottom": 4},
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": "var(--ink)",
        "labelFontSize": 12,
        "labelLimit": 300,
        "columnPadding": 16,
        "offset": 8,
    },
}
"""What all drawings have in common: ``config`` of a specification."""

_RECTANGLE = re.compile(
    r'<path d="(M[^"]*Z)" (fill="var\(--plain\)" opacity="[\d.]+")/>(?=<path|</g>)'
)


def drawn(specification: dict[str, Any], title: str, identity: str) -> str:
    """The specification as one ``<svg>`` element.

    Args:
        specification: Vega-Lite's.
        title: what a screen reader says in its place.
        identity: unique in the page; SVGs in one page share their ids otherwise.
    """
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(specification)
    svg = re.sub(r'(id="|url\(#)(clip|gradient)', rf"\g<1>{identity}-\g<2>", svg)
    # Inside the drawing nothing is left to announce: the label says all of it, once.
    svg = re.sub(r' (role|aria-[a-z]+)="[^"]*"', "", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def as_one(svg: str) -> str:
    """The drawing with all rectangles of one shade as one path: thousands open at once."""
    shades: dict[str, list[str]] = {}

    def taken(found: re.Match[str]) -> str:
        shades.setdefault(found[2], []).append(found[1])
        return ""

    first = _RECTANGLE.search(svg)
    if first is None:
        return svg
    rest = _RECTANGLE.sub(taken, svg[first.start() :])
    paths = (
        f'<path {paint} shape-rendering="crispEdges" d="{"".join(parts)}"/>'
        for paint, parts in shades.items()
    )
    return f"{svg[: first.start()]}{''.join(paths)}{rest}"


def windowed(specification: dict[str, Any]) -> tuple[float, float]:
    """The part of the x axis that a specification shows."""
    values = {each["name"]: each.get("value") for each in specification["params"]}
    return values["low"], values["high"]
