"""``gradscope remedy``: the page of a remedy, or a table of all."""

from __future__ import annotations

from typing import Annotated

import typer

NAME = "remedy"


def run(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Such as artificial-derivative.")
    ] = None,
) -> None:
    """Explain a remedy: what it does, when it applies, whether it is safe."""
    from gradscope import registry
    from gradscope.cli.pages import print_page, print_table
    from gradscope.discovery import summary

    if name is None:
        print_table(
            ("remedy", "changes", "safe", "treats", "what it does"),
            [
                (
                    remedy.name,
                    ", ".join(change.value for change in remedy.changes),
                    "yes" if remedy.safe else "no",
                    " ".join(remedy.treats),
                    summary(remedy),
                )
                for remedy in registry.remedies().values()
            ],
        )
        return
    remedy = registry.remedy(name)
    print_page(
        remedy.name,
        remedy.__doc__ or "",
        ("parameter", "meaning"),
        list(remedy.parameters.items()),
    )
