"""Writes docs/rules and docs/remedies from the code, docs/experiments from the runs kept there.

README's tables between ``<!-- table NAME N -->`` and ``<!-- end -->`` are written too: the N-th of
``docs/experiments/NAME.json``. With --check it writes nothing, and fails where something is stale.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gradscope import registry
from gradscope.discovery import summary
from gradscope.examples.experiments.results import Run, Table, read_run
from gradscope.profile import DEFAULT_STEPS
from gradscope.rules import Rule, describe_limits

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
FOLDERS = ("rules", "remedies", "experiments")
NONE = "no other rule's fault"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args().check
    pages = dict(rule_pages()) | dict(remedy_pages()) | dict(experiment_pages())
    present = {README, *(path for folder in FOLDERS for path in (DOCS / folder).glob("*.md"))}
    stale = [
        path
        for path, text in pages.items()
        if path not in present or path.read_text(encoding="utf-8") != text
    ] + sorted(present - set(pages))
    if check:
        for path in stale:
            print(f"{path.relative_to(DOCS.parent)} is stale; run make docs", file=sys.stderr)
        return int(bool(stale))
    for path in present - set(pages):
        path.unlink()
    for path, text in pages.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def rule_pages() -> Iterator[tuple[Path, str]]:
    # A plugin that happens to be installed here has pages of its own elsewhere.
    rules = [rule for rule in registry.rules().values() if registry.origin(rule) == registry.OWN]
    yield (
        DOCS / "rules" / "index.md",
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
            DOCS / "rules" / f"{rule.name}.md",
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


def remedy_pages() -> Iterator[tuple[Path, str]]:
    remedies = [
        remedy for remedy in registry.remedies().values() if registry.origin(remedy) == registry.OWN
    ]
    yield (
        DOCS / "remedies" / "index.md",
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
            DOCS / "remedies" / f"{remedy.name}.md",
            f"# {remedy.name}\n\n{page(remedy)}{parameters}",
        )


def experiment_pages() -> Iterator[tuple[Path, str]]:
    tables: dict[str, list[Table]] = {}
    listed = []
    for path in sorted((DOCS / "experiments").glob("*.json")):
        run = read_run(path)
        module = importlib.import_module(module_of(run))
        tables[path.stem] = module.tables(run)
        about = inspect.cleandoc(module.__doc__ or "")
        title, _, rest = about.partition("\n")
        listed.append((f"[{path.stem}]({path.stem}.md)", title))
        settings = ", ".join(f"{name} {value}" for name, value in run.settings.items())
        versions = ", ".join(f"{name} {value}" for name, value in run.versions.items())
        yield (
            path.with_suffix(".md"),
            f"# {title.rstrip('.')}\n{rest}\n\n"
            + f"[This run]({path.name}) is of `{run.command}`: {settings}; {versions}.\n"
            + "".join(f"\n## {each.title}\n\n{each.markdown()}" for each in tables[path.stem]),
        )
    yield (
        DOCS / "experiments" / "index.md",
        "# Experiments\n\n" + table(("experiment", "what it is"), listed),
    )

    def filled(marks: re.Match[str]) -> str:
        name, number = marks["name"], int(marks["number"])
        if not 1 <= number <= len(tables.get(name, [])):
            raise SystemExit(f"README.md has {marks['begin']}, and there is no such table.")
        return f"{marks['begin']}\n{tables[name][number - 1].markdown()}<!-- end -->"

    pattern = r"(?P<begin><!-- table (?P<name>\S+) (?P<number>\d+) -->)\n.*?<!-- end -->"
    text = README.read_text(encoding="utf-8")
    yield README, re.sub(pattern, filled, text, flags=re.DOTALL)


def module_of(run: Run) -> str:
    """The module that the command of a run starts."""
    found = re.match(r"python (?:examples/(\w+)\.py|-m (\S+))", run.command)
    assert found is not None, run.command
    return f"gradscope.examples.{found[1]}" if found[1] else found[2]


def page(documented: object) -> str:
    return inspect.cleandoc(type(documented).__doc__ or "")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return Table("", headings, rows, names=len(headings)).markdown()


if __name__ == "__main__":
    # Some experiments are of the tests.
    sys.path.insert(0, str(DOCS.parent))
    sys.exit(main())
