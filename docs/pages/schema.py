"""docs/reference/report.md: what ``report.json`` holds, from the records behind it.

The JSON Schemas of reports, plans and comparisons are written beside it, as docs/*.schema.json.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from gradscope.records import Report
from gradscope.reports import schema
from gradscope.reports.json_schema import Kind
from pages.parts import DOCS, cell, table

INTRODUCTION = """\
# Report schema

`--format json`, and `report.json` of `fix`, hold one object of this form. Its JSON Schema (draft
2020-12) is [report.schema.json](../report.schema.json); those of `plan.json` and of what
`gradscope compare --format json` writes are [plan.schema.json](../plan.schema.json) and
[comparison.schema.json](../comparison.schema.json). The command prints them, too:

```sh
gradscope schema
gradscope schema plan
```

Numbers that JSON does not have are the words `"NaN"`, `"Infinity"` and `"-Infinity"`. Reports of
older versions are read: `gradscope report` and `gradscope.load_report` take them.
"""


def pages() -> Iterator[tuple[Path, str]]:
    yield (
        DOCS / "reference" / "report.md",
        INTRODUCTION + "".join(section(kind) for kind in reached(Report)),
    )
    for kind in get_args(Kind):
        described = json.dumps(schema(kind), indent=2, allow_nan=False)
        yield DOCS / f"{kind}.schema.json", f"{described}\n"


def reached(root: type[Any]) -> list[type[Any]]:
    """The records that a report is made of, each after the one that has it first."""
    found = [root]
    for kind in found:
        for hint in get_type_hints(kind).values():
            found += [each for each in dict.fromkeys(records(hint)) if each not in found]
    return found


def records(hint: Any) -> Iterator[type[Any]]:
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for inner in get_args(hint):
        yield from records(inner)


def section(kind: type[Any]) -> str:
    doc = inspect.cleandoc(kind.__doc__ or "")
    about, _, attributes = doc.partition("Attributes:\n")
    meanings = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE))
    rows = [
        (f"`{entry.name}`", f"`{entry.type}`", cell(meanings.get(entry.name, "")))
        for entry in fields(kind)
    ]
    # What the class generates for itself is no documentation.
    said = "" if about.startswith(f"{kind.__name__}(") else f"{about.strip()}\n\n"
    return f"\n## {kind.__name__}\n\n{said}{table(('key', 'type', 'meaning'), rows)}"
