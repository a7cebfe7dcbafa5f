"""``gradscope schema``: the JSON Schema of the report."""

from __future__ import annotations

import typer

NAME = "schema"


def run() -> None:
    """Print the JSON Schema (draft 2020-12) that report.json follows."""
    import json

    from gradscope.reports import schema

    typer.echo(json.dumps(schema(), indent=2))
