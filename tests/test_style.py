"""What a linter does not hold: names of files, and their length."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SOURCES = sorted(
    path
    for folder in ("cli", "examples", "gradscope", "reports", "tests")
    for path in (ROOT / folder).rglob("*.py")
)

SAYS_NOTHING = {"common", "helpers", "misc", "utils"}

MOST_LINES = 400

LONG_FOR_A_REASON = {
    "gradscope/records.py": "all the nouns in one place, most of it their documentation",
}


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_are_sources() -> None:
    assert SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_a_file_is_named_for_one_idea_and_short(path: Path) -> None:
    assert path.stem not in SAYS_NOTHING
    if identify(path) not in LONG_FOR_A_REASON:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
