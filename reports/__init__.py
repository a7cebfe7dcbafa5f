"""Reports for people and for machines: terminal, HTML and JSON, all from the same records.

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
    schema,
)
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
    "render_plan",
    "render_terminal",
    "schema",
    "view",
]
