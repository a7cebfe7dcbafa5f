"""docs/remedies: a page for each remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gradscope import registry
from gradscope.derivatives import derivatives
from gradscope.discovery import summary
from pages.parts import DOCS, page, table

FOLDER = DOCS / "remedies"


def pages() -> Iterator[tuple[Path, str]]:
    remedies = [
        remedy for remedy in registry.remedies().values() if registry.origin(remedy) == registry.OWN
    ]
    yield (
        FOLDER / "index.md",
        "# Remedies\n\n"
        + table(
            ("remedy", "changes", "safe", "treats", "what it does"),
            [
                (
                    f"[{remedy.name}]({remedy.name}.md)",
                    ", ".join(change.value for change in remedy.changes),
                    "yes" if remedy.safe else "no",
                    ", ".join(remedy.treats),
                    summary(remedy),
                )
                for remedy in remedies
            ],
        ),
    )
    for remedy in remedies:
        parameters = (
            "\n\n## Parameters\n\n"
            + table(("parameter", "meaning"), list(remedy.parameters.items()))
            if remedy.parameters
            else "\n"
        )
        yield (
            FOLDER / f"{remedy.name}.md",
            f"# {remedy.name}\n\n{linked(page(remedy))}{parameters}",
        )


def linked(text: str) -> str:
    """With a link to the page of each derivative that a table lists."""
    names = "|".join(derivatives())
    return re.sub(rf"^\| ({names}) \|", r"| [\1](../derivatives/\1.md) |", text, flags=re.MULTILINE)
