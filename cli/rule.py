"""``gradscope rule``: the page of a rule, or a table of all."""

from __future__ import annotations

from typing import Annotated

import typer

NAME = "rule"


def run(
    key: Annotated[
        str | None, typer.Argument(metavar="CODE|NAME", help="Such as GS101 or dead-relu.")
    ] = None,
) -> None:
    """Explain a rule: what it does, why the fault is bad, when the rule is wrong."""
    from gradscope import registry
    from gradscope.cli.pages import print_page, print_table
    from gradscope.discovery import summary
    from gradscope.rules import describe_limits

    if key is None:
        print_table(
            ("code", "rule", "what is wrong"),
            [(rule.code, rule.name, summary(rule)) for rule in registry.rules().values()],
        )
        return
    rule = registry.rule(key)
    print_page(
        f"{rule.code} {rule.name}",
        rule.__doc__ or "",
        ("limit", "value", "unit", "source"),
        [
            (name, f"{value:g}", unit, source)
            for name, value, unit, source in describe_limits(rule.limits)
        ],
    )
