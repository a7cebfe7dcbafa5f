"""``gradscope rule``: the page of a rule, or a table of all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gradscope.config import Settings
    from gradscope.configured import Configured
    from gradscope.rules import Rule

NAME = "rule"


def run(
    key: Annotated[
        str | None, typer.Argument(metavar="CODE|NAME", help="Such as GS101 or dead-relu.")
    ] = None,
) -> None:
    """Explain a rule: what it does, why the fault is bad, what to do, its limits here."""
    from gradscope import registry
    from gradscope.config import find_settings
    from gradscope.configured import configured, rules_to_run

    settings = find_settings()
    if key is None:
        _print_all(settings)
        return
    code = registry.rule(key).code
    runs = code in {entry.rule.code for entry in rules_to_run(settings)}
    _print_one(configured(settings)[code], runs)


def _print_all(settings: Settings) -> None:
    from gradscope import registry
    from gradscope.cli.pages import print_note, print_table, summed_up
    from gradscope.configured import rules_to_run

    rules = registry.rules()
    print_table(
        ("code", "rule", "what is wrong"),
        [(rule.code, rule.name, summed_up(rule)) for rule in rules.values()],
    )
    print_note("'gradscope rule NAME' explains one: what it means, what to do, its limits.")
    # Not before the table: who has misspelled a rule in the settings is sent here to look it up.
    off = set(rules) - {entry.rule.code for entry in rules_to_run(settings)}
    if off:
        print_note(f"Left out by pyproject.toml: {', '.join(sorted(off))}.")


def _print_one(entry: Configured, runs: bool) -> None:
    from gradscope.cli.pages import (
        print_entries,
        print_heading,
        print_note,
        print_page,
        print_table,
    )
    from gradscope.rules import describe_limits

    rule = entry.rule
    print_page(f"{rule.code} {rule.name}", rule.__doc__ or "")
    print_heading("Causes, consequences, remedies")
    print_entries(_relations(rule))
    print_heading("Limits")
    print_table(("limit", "in force", "unit, and where the number comes from"), _limits(entry))
    name, value, _, _ = next(describe_limits(entry.limits))
    print_note("To set one, write in pyproject.toml, for example:")
    print_note(f"    [tool.gradscope.rules.{rule.name}]\n    {name} = {value:g}")
    if not runs:
        print_note("It does not run here: pyproject.toml leaves it out.")
    if entry.unseen:
        print_note(f"It does not look at {', '.join(entry.unseen)}: pyproject.toml says so.")


def _relations(rule: Rule[Any]) -> dict[str, str]:
    from gradscope import registry
    from gradscope.cli.options import DEFAULT_STEPS

    return {
        "caused by": _named(registry.causes_of(rule.code), "where one is found too, begin there"),
        "leads to": _named(registry.consequences_of(rule.code), "they should go with it"),
        "remedies": ", ".join(remedy.name for remedy in registry.treating(rule.code))
        or "none of gradscope's; the text above says what to change",
        "steps": f"{rule.steps}; scan with --steps {rule.steps}"
        if rule.steps > DEFAULT_STEPS
        else f"{DEFAULT_STEPS}, the default, are enough",
        "comes from": registry.origin(rule),
    }


def _named(rules: Iterable[Rule[Any]], hint: str) -> str:
    names = ", ".join(f"{rule.code} {rule.name}" for rule in rules)
    return f"{names} ({hint})" if names else "no other rule's fault"


def _limits(entry: Configured) -> list[tuple[str, str, str]]:
    from gradscope.rules import describe_limits

    defaults = {name: value for name, value, _, _ in describe_limits(entry.rule.limits)}
    return [
        (
            name,
            f"{value:g}",
            f"{unit}\npyproject.toml; default: {defaults[name]:g} ({source})"
            if name in entry.changed
            else f"{unit}\ndefault: {source}",
        )
        for name, value, unit, source in describe_limits(entry.limits)
    ]
