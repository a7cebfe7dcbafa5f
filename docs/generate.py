"""Writes what the documentation says of the code: the pages of ``docs/pages/*.py``.

These are docs/rules, docs/remedies, docs/derivatives, docs/reference and docs/*.schema.json from
the code, and docs/experiments from the runs kept there. README's tables between
``<!-- table NAME N -->`` and ``<!-- end -->`` are written too: the N-th of
``docs/experiments/NAME.json``. With --check it writes nothing, and fails where something is stale.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DOCS = Path(__file__).parent
# Some experiments are of the tests.
sys.path.insert(0, str(DOCS.parent))

from pages import (  # noqa: E402
    api,
    command_line,
    configuration,
    derivatives,
    experiments,
    remedies,
    rules,
    schema,
)
from pages.parts import Picture  # noqa: E402

KINDS = (rules, remedies, derivatives, experiments, command_line, api, configuration, schema)
# Nothing but what is generated stands there; what else is found is of something that is gone.
FOLDERS = ("rules", "remedies", "derivatives", "experiments", "reference")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args().check
    pages = {path: content for kind in KINDS for path, content in kind.pages()}
    present = {
        path
        for folder in FOLDERS
        for path in (DOCS / folder).glob("*")
        if path.suffix in (".md", ".svg")
    }
    gone = sorted(present - set(pages))
    stale = [path for path, content in pages.items() if not is_current(path, content)]
    if check:
        for path in stale + gone:
            print(f"{path.relative_to(DOCS.parent)} is stale; run make docs", file=sys.stderr)
        return int(bool(stale or gone))
    for path in gone:
        path.unlink()
    for path in stale:
        content = pages[path]
        path.parent.mkdir(exist_ok=True)
        text = content.draw() if isinstance(content, Picture) else content
        path.write_text(text, encoding="utf-8")
    return 0


def is_current(path: Path, content: str | Picture) -> bool:
    if not path.exists():
        return False
    text = path.read_text(encoding="utf-8")
    return content.mark in text if isinstance(content, Picture) else text == content


if __name__ == "__main__":
    sys.exit(main())
