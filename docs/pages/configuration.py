"""docs/reference/configuration.md: what ``[tool.gradscope]`` may hold, with every limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gradscope import registry
from gradscope.rules import describe_limits
from pages.parts import DOCS, table

INTRODUCTION = """\
# Configuration

The nearest `pyproject.toml` with a `[tool.gradscope]`, from the working directory upwards, says
what counts on your model. There is no other file and no environment variable: the same commit finds
the same everywhere.

```toml
# pyproject.toml
[tool.gradscope]
ignore = ["GS505"]

[tool.gradscope.rules.dead-relu]
warning = 0.3

[tool.gradscope.ignore-sites]
"decoder.*" = ["GS201"]
```

- `select`: the rules to run, by codes, names, or the beginning of codes such as `GS5`; without it,
  all.
- `ignore`: rules to leave out of these.
- `rules.NAME`: for the rule of that name, limits in place of its defaults, by the names below.
- `ignore-sites`: for a pattern of whole names, the rules that do not see sites and parameters with
  such a name; `*` also matches dots.

`--select` takes the place of what the file selects and ignores, `--ignore` adds to it. A key, rule
or limit that does not exist is an error that names the nearest one. `gradscope rule NAME` prints
the limits in force in this folder:

```sh
gradscope rule dead-relu
```

Reports print each value beside its limit. [Decision 16](../decisions/0016-configuration.md) says
why it is so.

## From Python

Nothing is read unless you say so:

```python
import gradscope

settings = gradscope.find_settings()  # of the working directory
settings = gradscope.Settings(ignore=("GS505",), limits={"dead-relu": {"warning": 0.3}})
```

`gradscope.diagnose(profile, settings=settings)`, and likewise `scan` and `fix`, go by them.

## Limits

The default of every limit; each rule's page says where the number comes from.
"""


def pages() -> Iterator[tuple[Path, str]]:
    rules = [rule for rule in registry.rules().values() if registry.origin(rule) == registry.OWN]
    rows = [
        (f"[{rule.name}](../rules/{rule.name}.md#limits)", f"`{name}`", f"{value:g}", unit)
        for rule in rules
        for name, value, unit, _ in describe_limits(rule.limits)
    ]
    yield (
        DOCS / "reference" / "configuration.md",
        INTRODUCTION + "\n" + table(("rule", "limit", "default", "unit"), rows),
    )
