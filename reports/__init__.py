"""Reports for people and for machines, all from the same records.

Terminal, HTML and Markdown render the view tree; JSON, SARIF and JUnit the records themselves.

Importing this is cheap: rich, jinja2, altair and pydantic load when something is rendered.
"""

from gradscope.reports.html import render_html
from gradscope.reports.json import (
    load_plan,
    load_report,
    read_json,
    read_plan,
    render_json,
    render_plan,
)
from gradscope.reports.json_schema import schema
from gradscope.reports.junit import render_junit
from gradscope.reports.markdown import render_markdown
from gradscope.reports.sarif import render_sarif
from gradscope.reports.terminal import render_terminal

# The function takes the place of its module of the same name, which is only then imported fully.
from gradscope.reports.view import view

__all__ = [
    "load_plan",
    "load_report",
    "read_json",
    "read_plan",
    "render_html",
    "render_json",
    "render_junit",
    "render_markdown",
    "render_plan",
    "render_sarif",
    "render_terminal",
    "schema",
    "view",
]
