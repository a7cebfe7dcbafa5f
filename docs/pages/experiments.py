"""docs/experiments: a page for each run that is kept there, and README's tables of them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from gradscope.examples.experiments.results import Run, Table, read_run
from pages.parts import DOCS, ROOT, table

FOLDER = DOCS / "experiments"
README = ROOT / "README.md"


def pages() -> Iterator[tuple[Path, str]]:
    tables: dict[str, list[Table]] = {}
    listed = []
    for path in sorted(FOLDER.glob("*.json")):
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
        FOLDER / "index.md",
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
