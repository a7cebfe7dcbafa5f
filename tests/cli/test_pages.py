"""Pages on a terminal without colour."""

from __future__ import annotations

from gradscope.cli.pages import _quoted


def test_code_is_quoted_where_there_is_no_colour_but_not_in_tables() -> None:
    page = "Takes ``steps`` steps, or `n`.\n\n| formula |\n| --- |\n| `x + 1` |"
    assert _quoted(page) == page.replace("``steps``", "'``steps``'").replace("`n`", "'`n`'")
