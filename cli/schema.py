"""``gradscope schema``: the JSON Schemas of what is written as JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

NAME = "schema"


class Kind(StrEnum):
    """What has a schema; of its own, because the command line imports no reports at its start."""

    REPORT = "report"
    PLAN = "plan"
    COMPARISON = "comparison"


KIND = Annotated[
    Kind,
    typer.Argument(
        metavar="KIND",
        help="Of report.json, plan.json, or what 'gradscope compare --format json' writes.",
    ),
]


def run(kind: KIND = Kind.REPORT) -> None:
    """Print the JSON Schema (draft 2020-12) that a report, a plan or a comparison follows."""
    import json

    from gradscope.reports import schema

    typer.echo(json.dumps(schema(kind.value), indent=2, allow_nan=False))
