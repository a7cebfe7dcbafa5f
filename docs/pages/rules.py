"""docs/rules: a page for each rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gradscope import registry
from gradscope.discovery import summary
from gradscope.profile import DEFAULT_STEPS
from gradscope.rules import Rule, describe_limits
from pages.parts import DOCS, page, table

FOLDER = DOCS / "rules"
NONE = "no other rule's fault"


def pages() -> Iterator[tuple[Path, str]]:
    # A plugin that happens to be installed here has pages of its own elsewhere.
    rules = [rule for rule in registry.rules().values() if registry.origin(rule) == registry.OWN]
    yield (
        FOLDER / "index.md",
        "# Rules\n\n"
        + table(
            ("code", "rule", "what is wrong"),
            [(rule.code, f"[{rule.name}]({rule.name}.md)", summary(rule)) for rule in rules],
        ),
    )
    for rule in rules:
        limits = [
            (name, f"{value:g}", unit, source)
            for name, value, unit, source in describe_limits(rule.limits)
        ]
        treated_by = [
            f"[{remedy.name}](../remedies/{remedy.name}.md)"
            for remedy in registry.treating(rule.code)
            if registry.origin(remedy) == registry.OWN
        ]
        causes = registry.causes_of(rule.code)
        effects = [other for other in registry.consequences_of(rule.code) if other in rules]
        yield (
            FOLDER / f"{rule.name}.md",
            f"# {rule.code} {rule.name}\n\n{page(rule)}\n\n## Limits\n\n"
            + table(("limit", "value", "unit", "source"), limits)
            + f"\nSet others under `[tool.gradscope.rules.{rule.name}]` in pyproject.toml.\n\n"
            + "## Causes, consequences, remedies\n\n"
            + f"- Caused by: {links(causes) or NONE}.\n"
            + f"- Leads to: {links(effects) or NONE}.\n"
            + f"- Remedies: {', '.join(treated_by) or 'none yet'}.\n"
            + f"- Steps: {steps(rule)}.\n",
        )


def links(rules: Sequence[Rule[Any]]) -> str:
    return ", ".join(f"[{rule.code} {rule.name}]({rule.name}.md)" for rule in rules)


def steps(rule: Rule[Any]) -> str:
    if rule.steps > DEFAULT_STEPS:
        return f"{rule.steps}; scan with `--steps {rule.steps}`"
    return f"{DEFAULT_STEPS}, the default, are enough"
