"""Every kind of block is rendered by every form for people; every form is written by commands."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from rich.console import Console

from gradscope.cli.options import Format
from gradscope.cli.writing import write
from gradscope.records import Report
from gradscope.reports import render_markdown, render_terminal
from gradscope.reports.html import render_page
from gradscope.reports.nodes import (
    Block,
    Card,
    Cell,
    Code,
    Column,
    Detail,
    Document,
    Entry,
    Figure,
    Fold,
    Headline,
    Items,
    Mark,
    Names,
    Paragraph,
    Section,
    Table,
    Tone,
)

MARK = Mark("✓", "fine", Tone.GOOD)


def grid(text: str) -> Table:
    return Table((Column("what"),), ((Cell(text),),))


ONE_OF_EACH: tuple[Block, ...] = (
    Paragraph("wordsofparagraph"),
    Names("where", ("wordsofnames",)),
    grid("wordsoftable"),
    Items((Entry("term", "wordsofitems"),)),
    Code(("wordsofcode",)),
    Figure((), grid("wordsoffigure")),
    Card(MARK, "GS000", "wordsofcard", ()),
    Fold("wordsoffold", (Paragraph("inside"),)),
)


def document(*blocks: Block) -> Document:
    return Document("target", "about", Headline(MARK, "fine"), (Section("part", blocks),))


def as_text(shown: Document) -> str:
    stream = io.StringIO()
    render_terminal(shown, Console(file=stream, width=80, color_system=None), Detail.VERBOSE)
    return stream.getvalue()


FORMS = {"terminal": as_text, "page": render_page, "markdown": render_markdown}


def test_there_is_one_of_each_kind() -> None:
    assert {type(block) for block in ONE_OF_EACH} == set(get_args(Block))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", ONE_OF_EACH, ids=lambda block: type(block).__name__)
def test_a_block_is_shown(form: str, block: Block) -> None:
    assert f"wordsof{type(block).__name__.lower()}" in FORMS[form](document(block))


@dataclass(frozen=True)
class Strange:
    """A kind of block that nobody renders."""


@pytest.mark.parametrize("form", FORMS)
def test_a_kind_that_is_not_rendered_is_an_error(form: str) -> None:
    with pytest.raises((AssertionError, TypeError)):
        FORMS[form](document(cast(Any, Strange())))


@pytest.mark.parametrize("form", Format)
def test_every_form_is_written_to_a_file(form: Format, demo: Report, tmp_path: Path) -> None:
    path = tmp_path / "report"
    write(replace(demo, plan=None), form, path)
    beginning = path.read_text(encoding="utf-8")[:400]
    expected = {
        Format.TEXT: demo.target.name,
        Format.JSON: '"schema_version"',
        Format.HTML: "<!doctype html>",
        Format.MARKDOWN: "## ",
        Format.SARIF: "sarif-schema-2.1.0.json",
        Format.JUNIT: "<testsuites",
    }
    assert expected[form] in beginning
