"""The report as one HTML page that needs nothing else: no network, no script, no other file.

The page comes from the same view tree as the terminal's text; charts are drawn as inline SVG.
Every string is escaped by the template engine, and a content security policy forbids the page
to load anything, in case something should slip through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradscope.records import Report
from gradscope.reports.nodes import Chart, Document, HeatMap
from gradscope.reports.view import view

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render_html", "render_page"]


def render_html(report: Report) -> str:
    """The report as one self-contained HTML page."""
    return render_page(view(report))


def render_page(document: Document) -> str:
    """The document as one self-contained HTML page."""
    return _environment().get_template("report.html.j2").render(document=document)


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from gradscope.reports.charts import draw
    from gradscope.reports.heat_map import draw_heat_map

    drawn = 0

    def svg(chart: Chart | HeatMap) -> Markup:
        nonlocal drawn
        drawn += 1
        if isinstance(chart, HeatMap):
            # Safe: names and labels are escaped there, all else are numbers.
            return Markup(draw_heat_map(chart, f"chart{drawn}"))
        # Safe: vl-convert escapes what it sets as text, and draw() escapes the label.
        return Markup(draw(chart, f"chart{drawn}"))

    environment = Environment(
        loader=PackageLoader("gradscope.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = svg
    environment.filters["kind"] = lambda node: type(node).__name__
    return environment
