"""The report as one HTML page that needs nothing else: no network and no other file.

The page comes from the same view tree as the terminal's text. Charts are drawn as inline SVG, which
needs no script and is what is printed; a script then makes them answer to a reader. Every string is
escaped by the template engine, and a content security policy forbids the page to load anything, and
to run any script but its own, in case something should slip through.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, NoReturn

from gradscope.records import Report
from gradscope.reports.nodes import Chart, Document, Figure, HeatMap, Section
from gradscope.reports.view import view

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["render_html", "render_page"]


def render_html(report: Report) -> str:
    """The report as one self-contained HTML page."""
    return render_page(view(report))


def render_page(document: Document, *, script: bool = True) -> str:
    """The document as one self-contained HTML page; without its script it is a tenth as large."""
    from markupsafe import Markup

    from gradscope.reports.drawing.interactive import has_figures, libraries

    environment = _environment()
    scripts: list[Markup] = []
    if script and has_figures(document):
        # Safe: they are the package's own, and hold nothing of the report.
        own = [environment.get_template(name).render() for name in ("drawing.js", "report.js")]
        scripts = [Markup(each) for each in (libraries(), *own)]
    return environment.get_template("report.html.j2").render(
        document=document,
        anchors=_anchors(document.sections),
        scripts=scripts,
        hashes=[_hash(each) for each in scripts],
    )


def _refuse(kind: str) -> NoReturn:
    raise TypeError(f"the page's template draws no {kind}")


def _hash(script: str) -> str:
    """What a content security policy calls this script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _anchors(sections: tuple[Section, ...]) -> list[str]:
    """For each section the id that links lead to."""
    taken: list[str] = []
    for section in sections:
        plain = re.sub("[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        again = sum(re.fullmatch(rf"{re.escape(plain)}(-\d+)?", each) is not None for each in taken)
        taken.append(f"{plain}-{again + 1}" if again else plain)
    return taken


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from gradscope.reports.drawing.charts import draw
    from gradscope.reports.drawing.interactive import as_json, figure_data

    drawn = 0

    def svg(chart: Chart | HeatMap) -> Markup:
        nonlocal drawn
        drawn += 1
        # Safe: vl-convert escapes what it sets as text, and draw() escapes the label.
        return Markup(draw(chart, f"chart{drawn}"))

    def data(figure: Figure) -> Markup:
        # Safe: as_json() leaves no character that could end the element.
        return Markup(as_json(figure_data(figure)))

    environment = Environment(
        loader=PackageLoader("gradscope.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = svg
    environment.filters["data"] = data
    environment.filters["kind"] = lambda node: type(node).__name__
    environment.globals["refuse"] = _refuse
    return environment
