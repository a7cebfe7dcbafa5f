"""Charts as SVG files of their own, to stand beside a Markdown file.

In the page colours are its variables, which follow its scheme. A file has no page around it: it is
drawn in the colours of the printed page, on white.
"""

from __future__ import annotations

import re

from gradscope.reports.drawing.charts import draw
from gradscope.reports.nodes import Chart, HeatMap

__all__ = ["COLOURS", "svg_file"]

COLOURS = {
    "paper": "#fff",
    "panel": "#fff",
    "ink": "#000",
    "muted": "#444",
    "line": "#bbb",
    "plain": "#2b5c94",
    "good": "#17734a",
    "warn": "#8f5a00",
    "bad": "#b3261e",
}
"""The page's variables, as they are where it is printed."""
_VARIABLE = re.compile(r"var\(--([\w-]+)[^()]*\)")
_NAMESPACE = ' xmlns="http://www.w3.org/2000/svg"'
_WHITE = '<rect width="100%" height="100%" fill="#fff"/>'


def svg_file(chart: Chart | HeatMap, identity: str) -> str:
    """The chart as an SVG document that needs nothing around it.

    Args:
        chart: what to draw.
        identity: for the ids inside.
    """
    svg = _VARIABLE.sub(lambda found: COLOURS.get(found[1], COLOURS["ink"]), draw(chart, identity))
    opening, _, rest = svg.partition(">")
    named = "" if _NAMESPACE in opening else _NAMESPACE
    return f"{opening}{named}>{_WHITE}{rest}"
