"""The terminal report: fixed widths, no colour without a terminal, nothing hostile let through."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from gradscope.records import Report
from gradscope.reports import render_terminal, view

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"


def rendered(report: Report, width: int = 80, *, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    render_terminal(view(report), console)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["demo", "healthy", "hostile"])
def test_it_looks_as_it_did(name: str, request: pytest.FixtureRequest) -> None:
    """Run with GRADSCOPE_UPDATE_SNAPSHOTS=1 to accept a change, and read the difference."""
    path = SNAPSHOTS / f"report-{name}-80.txt"
    text = rendered(request.getfixturevalue(name))
    if os.environ.get("GRADSCOPE_UPDATE_SNAPSHOTS") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("name", ["demo", "hostile", "huge"])
def test_no_line_is_wider_than_the_terminal(
    name: str, width: int, request: pytest.FixtureRequest
) -> None:
    for line in rendered(request.getfixturevalue(name), width).splitlines():
        assert len(line) <= width
        assert line == line.rstrip()


def test_the_order_is_wrong_tried_verdict(demo: Report) -> None:
    text = rendered(demo)
    places = [
        text.index(each)
        for each in ("GS204", "GS101", "2.61e-9", "What was tried", "\nVerdict", "0.103 → 0.811")
    ]
    assert places == sorted(places)


def test_a_healthy_report_is_short(healthy: Report) -> None:
    assert len(rendered(healthy).splitlines()) < 16


def test_a_wide_terminal_shows_the_optional_columns(demo: Report) -> None:
    assert "variation  backward" in rendered(demo, 120)
    assert "variation  backward" not in rendered(demo, 80)


def test_long_names_keep_both_their_ends(huge: Report) -> None:
    assert re.search(r"encoder\S*….*activation", rendered(huge, 60))


def test_no_escape_sequence_without_a_terminal(hostile: Report) -> None:
    text = rendered(hostile)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert "\\x1b[31mred\\x1b[0m" in text
    assert "[bold red]markup[/]" in text


def test_with_a_terminal_the_only_escapes_are_its_own_colours(hostile: Report) -> None:
    text = rendered(hostile, colour=True)
    assert "\x1b[" in text
    assert not re.sub(r"\x1b\[[0-9;]*m", "", text).count("\x1b")
    assert "\\x1b[31mred" in text


def test_no_color_is_honoured(demo: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    render_terminal(view(demo), Console(file=stream, width=80, force_terminal=True))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", stream.getvalue())


def test_a_terminal_without_unicode_gets_ascii(demo: Report, hostile: Report) -> None:
    for report in (demo, hostile):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        render_terminal(view(report), Console(file=stream, width=80))
        stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    assert b"x worse, undone" in stream.buffer.getvalue()
