"""Pages on a terminal: as wide as it is, and whole words in narrow ones."""

from __future__ import annotations

from typing import Any

import pytest

from gradscope.cli.pages import _quoted, print_page, print_table


def test_code_is_quoted_where_there_is_no_colour_but_not_in_tables() -> None:
    page = "Takes ``steps`` steps, or `n`.\n\n| formula |\n| --- |\n| `x + 1` |"
    assert _quoted(page) == page.replace("``steps``", "'``steps``'").replace("`n`", "'`n`'")


@pytest.mark.parametrize("columns", [30, 50, 80, 120])
@pytest.mark.parametrize(
    "arguments", [("rule",), ("rule", "GS101"), ("remedy",), ("remedy", "artificial-derivative")]
)
def test_no_line_is_wider_than_the_terminal_or_ends_in_spaces(
    gradscope: Any, monkeypatch: pytest.MonkeyPatch, columns: int, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = gradscope(*arguments).out.splitlines()
    assert max(map(len, lines)) <= min(columns, 100)
    assert lines == [line.rstrip() for line in lines]


ROWS = [["first-of-all", "one two three", "yes", "says what the first of all of them does"]]
HEADINGS = ("name", "kinds", "safe", "what it does")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            "80",
            [
                "name           kinds           safe   what it does",
                "─" * 77,
                "first-of-all   one two three   yes    says what the first of all of them does",
            ],
        ),
        (
            "62",
            [
                "name           kinds   safe   what it does",
                "─" * 62,
                "first-of-all   one     yes    says what the first of all of",
                "               two            them does",
                "               three",
            ],
        ),
        (
            "40",
            [
                "first-of-all",
                "  kinds: one two three",
                "  safe: yes",
                "  what it does: says what the first of",
                "  all of them does",
            ],
        ),
    ],
)
def test_a_table_folds_its_middle_then_becomes_a_list(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    expected: list[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_table(HEADINGS, ROWS)
    assert capsys.readouterr().out.splitlines() == expected


def test_a_pages_table_is_drawn_as_other_tables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_page("a", "Says:\n\n| name | formula |\n| --- | --- |\n| a-b | `x + 1` |\n\nAnd more.")
    said = "a\n\nSays:\n\nname   formula\n──────────────\na-b    x + 1\n\nAnd more.\n"
    assert capsys.readouterr().out.replace("\n\n\n", "\n\n") == said
