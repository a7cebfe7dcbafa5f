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
    from gradscope.cli.pages import (
        print_entries,
        print_heading,
        print_note,
        print_page,
        print_table,
        summed_up,
    )

    if name is None:
        print_table(
            ("remedy", "changes", "safe", "what it does"),
            [
                (
                    remedy.name,
                    ", ".join(change.value for change in remedy.changes),
                    "yes" if remedy.safe else "no",
                    summed_up(remedy),
                )
                for remedy in registry.remedies().values()
            ],
        )
        print_note("'gradscope remedy NAME' explains one; 'gradscope rule NAME' says which apply.")
        print_note("'gradscope fix' tries those that are safe, with --unsafe all of them.")
        return
    remedy = registry.remedy(name)
    print_page(remedy.name, remedy.__doc__ or "")
    print_heading("Where it belongs")
    print_entries(
        {
            "treats": ", ".join(
                f"{code} {rule.name}"
                for code, rule in registry.rules().items()
                if code in remedy.treats
            ),
            "changes": ", ".join(change.value for change in remedy.changes)
            + ("" if remedy.safe else " (tried with --unsafe only)"),
            "comes from": registry.origin(remedy),
        }
    )
    if remedy.parameters:
        print_heading("Parameters")
        print_table(("parameter", "meaning"), list(remedy.parameters.items()))
