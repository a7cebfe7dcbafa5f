"""The terminal report: fixed widths, colour by meaning alone, nothing hostile let through."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from gradscope.records import Report, Severity
from gradscope.reports import render_terminal, view
from gradscope.reports.comparing.compare import compare
from gradscope.reports.comparing.view import compare_view
from gradscope.reports.nodes import (
    Cell,
    Code,
    Column,
    Detail,
    Document,
    Fold,
    Headline,
    Mark,
    Names,
    Paragraph,
    Section,
    Table,
    Tone,
)
from gradscope.store.report import run_report
from tests.cli.recorded import recorded
from tests.reports.conftest import demo_report, healthy_report, hostile_report, huge_report

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"
DOCUMENTS = ("demo", "healthy", "hostile", "run", "comparison")
COLOURS = {"1": "bold", "2": "dim", "31": "red", "32": "green", "33": "yellow", "36": "cyan"}
LAYER = "encoder.layers.{}.a_very_long_name_of_a_block.feed_forward.activation"


def rendered(
    document: Document | Report,
    width: int = 80,
    *,
    colour: bool = False,
    detail: Detail = Detail.NORMAL,
    encoding: str = "utf-8",
) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
    )
    shown = document if isinstance(document, Document) else view(document)
    render_terminal(shown, console, detail)
    stream.seek(0)
    return stream.read()


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    run = run_report(str(recorded(tmp_path_factory.mktemp("run") / "run.gradscope")))
    run = replace(run, target=replace(run.target, name="run.gradscope"), tool=demo_report().tool)
    demo = demo_report()
    assert demo.verdict is not None
    better = replace(
        demo,
        profile=demo.verdict.profile,
        findings=(replace(demo.findings[1], cause=None, severity=Severity.WARNING),),
    )
    both = compare(demo, better, names=("before.json", "after.json"))
    return {
        "demo": view(demo),
        "healthy": view(healthy_report()),
        "hostile": view(hostile_report()),
        "huge": view(huge_report()),
        "run": view(run),
        "comparison": compare_view(both),
    }


# --- What it looks like -----------------------------------------------------------------------


def readable(text: str) -> str:
    """Colours as words in brackets that no report holds: ``⟦bold red⟧✗ error⟦⟧``."""

    def spoken(found: re.Match[str]) -> str:
        codes = found[1].split(";")
        return "⟦⟧" if codes == ["0"] else f"⟦{' '.join(COLOURS[code] for code in codes)}⟧"

    text = re.sub(r"\x1b\[([0-9;]*)m", spoken, text)
    # What is drawn in pieces of one colour is shown as one.
    pieces = re.compile(r"(⟦[^⟧]+⟧)([^⟦\n]*)⟦⟧\1")
    while pieces.search(text):
        text = pieces.sub(r"\1\2", text)
    return text


def code_in(node: object) -> set[str]:
    """The lines of code in a document, which are never broken."""
    if isinstance(node, Code):
        return set(node.lines)
    if isinstance(node, tuple):
        return set().union(*map(code_in, node))
    inner = (getattr(node, name, ()) for name in ("sections", "blocks"))
    return set().union(*map(code_in, inner))


@pytest.mark.parametrize(
    ("width", "kind"),
    [(80, ""), (120, ""), (80, "colour"), (120, "colour"), (80, "quiet"), (80, "verbose")],
)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_looks_as_it_did(
    name: str, width: int, kind: str, documents: dict[str, Document]
) -> None:
    """Run with GRADSCOPE_UPDATE_SNAPSHOTS=1 to accept a change, and read the difference."""
    path = SNAPSHOTS / f"report-{name}-{width}{f'-{kind}' if kind else ''}.txt"
    detail = Detail(kind) if kind in ("quiet", "verbose") else Detail.NORMAL
    text = readable(rendered(documents[name], width, colour=kind == "colour", detail=detail))
    if os.environ.get("GRADSCOPE_UPDATE_SNAPSHOTS") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("detail", "width"),
    [
        *((Detail.NORMAL, width) for width in (10, 40, 80, 120, 200)),
        *((Detail.VERBOSE, width) for width in (40, 80)),
    ],
)
@pytest.mark.parametrize("name", ["demo", "hostile", "huge", "run", "comparison"])
def test_no_line_is_wider_than_the_terminal(
    name: str, width: int, detail: Detail, documents: dict[str, Document]
) -> None:
    code = code_in(documents[name])
    for line in rendered(documents[name], width, detail=detail).splitlines():
        assert cell_len(line) <= width or line.strip() in code
        assert line == line.rstrip()


def test_there_may_be_hardly_any_terminal(documents: dict[str, Document]) -> None:
    assert "✓" in rendered(documents["demo"], 1)


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_no_number_is_cut(width: int, documents: dict[str, Document]) -> None:
    text = rendered(documents["demo"], width)
    for number in ("1.03e-10", "0.00335", "2.88e-4"):
        assert re.search(rf"(^|[\s;]){re.escape(number)}($|[\s;])", text, re.MULTILINE)


def test_the_order_is_wrong_tried_verdict(demo: Report) -> None:
    text = rendered(demo)
    places = [
        text.index(each)
        for each in ("GS204", "GS101", "2.61e-9", "What was tried", "\nVerdict", "0.103 → 0.811")
    ]
    assert places == sorted(places)


def test_a_healthy_report_is_short(healthy: Report) -> None:
    assert len(rendered(healthy).splitlines()) < 18


def test_a_wide_terminal_shows_the_optional_columns(demo: Report) -> None:
    assert "variation  backward" in rendered(demo, 120)
    assert "variation  backward" not in rendered(demo, 80)


# --- Detail -----------------------------------------------------------------------------------


def test_quiet_is_the_verdict_and_a_line_for_each_finding(documents: dict[str, Document]) -> None:
    lines = rendered(documents["demo"], detail=Detail.QUIET).splitlines()
    assert lines[0].startswith("✓ fixed  The model learns now: accuracy rose from 0.103 to 0.811")
    assert lines[1:] == [
        "✗ error    GS204  forward-collapse    at 11",
        "✗ error    GS101  vanishing-gradient  at 1",
        "▲ warning  GS501  loss-plateau",
    ]
    (healthy,) = rendered(documents["healthy"], detail=Detail.QUIET).splitlines()
    assert healthy.startswith("✓ healthy  ")


def test_quiet_of_a_comparison_says_what_each_finding_became(
    documents: dict[str, Document],
) -> None:
    verdict, *lines = rendered(documents["comparison"], detail=Detail.QUIET).splitlines()
    assert verdict.startswith("✓ B is better  ")
    assert [line.split() for line in lines] == [
        ["✓", "gone", "GS204", "forward-collapse"],
        ["✓", "gone", "GS501", "loss-plateau"],
        ["✓", "better", "GS101", "vanishing-gradient"],
    ]


def test_verbose_opens_what_is_folded(documents: dict[str, Document]) -> None:
    normal = rendered(documents["demo"])
    verbose = rendered(documents["demo"], detail=Detail.VERBOSE)
    assert "▸ 1 alternative considered" in normal
    assert "It raises the backward signal." not in normal
    assert "↳ 1 alternative considered" in verbose
    assert "It raises the backward signal." in verbose
    assert "▸" not in verbose
    assert "after clipping   rate" not in rendered(documents["run"])
    assert "after clipping   rate" in rendered(documents["run"], detail=Detail.VERBOSE)
    healthy = rendered(documents["healthy"], detail=Detail.VERBOSE)
    assert "Signal over depth" in healthy
    assert "variation  backward" in healthy


# --- Names ------------------------------------------------------------------------------------


def named(names: list[str], **more: str) -> Document:
    """A document with the names in a table, in a list and in its title."""
    columns = (Column("#", numeric=True), Column("site", name=True), Column("n", numeric=True))
    rows = tuple((Cell(str(i)), Cell(name), Cell("1e-3", bar=0.5)) for i, name in enumerate(names))
    return Document(
        names[0],
        "",
        Headline(Mark("✓", "healthy", Tone.GOOD), ""),
        (Section("names", (Names("at", tuple(names)), Table(columns, rows))),),
    )


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_siblings_of_long_names_stay_apart(width: int) -> None:
    text = rendered(named([LAYER.format(layer) for layer in (1, 7, 17, 18, 170)]), width)
    rows = [line.split()[1] for line in text.splitlines() if "━" in line]
    assert len(set(rows)) == len(rows) == 5
    assert all(
        re.search(rf"\b{layer}\b", row)
        for layer, row in zip((1, 7, 17, 18, 170), rows, strict=True)
    )


def test_long_names_keep_both_their_ends(huge: Report) -> None:
    assert re.search(r"encoder\S*….*activation", rendered(huge, 60))


@pytest.mark.parametrize(
    "name", ["编码器.层." * 12, "e\u0301" * 200, "🚀.🔥." * 100, "x" * 500, "क्षि" * 90]
)
def test_names_are_measured_in_cells(name: str) -> None:
    for width in (40, 80):
        lines = rendered(named([name, name + "y"]), width).splitlines()
        assert max(map(cell_len, lines)) <= width
        # The bars stand one under the other, which in characters they do not.
        assert len({cell_len(line[: line.index("━")]) for line in lines if "━" in line}) == 1


# --- Encodings and colours --------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "cp850", "shift_jis"])
def test_what_an_encoding_has_not_gets_its_ascii_form(
    encoding: str, documents: dict[str, Document]
) -> None:
    for name in (*DOCUMENTS, "huge"):
        text = rendered(documents[name], encoding=encoding)
        assert "\\u25" not in text
        assert "\\u27" not in text
        code = code_in(documents[name])
        assert all(len(line) <= 80 or line.strip() in code for line in text.splitlines())
    assert "+ fixed  The model learns now" in rendered(documents["demo"], encoding=encoding)


def test_characters_are_replaced_one_by_one() -> None:
    shown = rendered(named(["Größe→中"]), encoding="cp1252")
    assert "Größe->\\u4e2d" in shown


def test_a_scale_is_replaced_as_a_whole(documents: dict[str, Document]) -> None:
    """cp437 has two of the eight heights, which beside ASCII would mean nothing."""
    text = rendered(documents["demo"], encoding="cp437")
    assert not set("▁▂▃▄▅▆▇█━╸").intersection(text)
    assert "─" in text


def test_the_old_windows_console_gets_symbols_it_can_draw(demo: Report) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, legacy_windows=True)
    render_terminal(view(demo), console)
    assert "+ fixed" in stream.getvalue()
    assert not set("✓✗▲↳━▁").intersection(stream.getvalue())


def test_each_colour_has_a_symbol_a_word_or_a_number(documents: dict[str, Document]) -> None:
    """Red, yellow and green alone say nothing to who does not see them."""
    coloured = re.compile(r"⟦(?:bold )?(red|yellow|green)⟧([^⟦]*)⟦⟧")
    for name in DOCUMENTS:
        for line in readable(rendered(documents[name], colour=True)).splitlines():
            for found in coloured.finditer(line):
                before = line[: found.start()]
                assert re.search(r"\w", found[2] + before)


def test_no_escape_sequence_without_a_terminal(hostile: Report) -> None:
    for detail in Detail:
        text = rendered(hostile, detail=detail)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert "\\x1b[31mred\\x1b[0m" in text
    assert "[bold red]markup[/]" in text


def test_with_a_terminal_the_only_escapes_are_its_own_colours(hostile: Report) -> None:
    for detail in Detail:
        text = rendered(hostile, colour=True, detail=detail)
        assert "\x1b[" in text
        assert not re.sub(r"\x1b\[[0-9;]*m", "", text).count("\x1b")
    assert "\\x1b[31mred" in text


def test_hostile_names_break_out_of_no_part_of_a_document() -> None:
    """Also of one whose builder forgot to make them visible."""
    evil = "\x1b]0;owned\x07\u202e[red]\r\n"
    document = Document(
        evil,
        evil,
        Headline(Mark("✓", evil, Tone.GOOD), evil, evil),
        (
            Section(evil, (Fold(evil, (Paragraph(evil),)), Names(evil, (evil, evil)))),
            *named([evil]).sections,
        ),
    )
    text = rendered(document, detail=Detail.VERBOSE)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)
    assert text.count("\\x1b]0;owned\\x07\\u202e[red]") > 8


@pytest.mark.parametrize(
    ("variables", "escapes"),
    [
        ({"NO_COLOR": "1"}, r"\x1b\[[0-9;]*3[0-7]"),
        ({"TERM": "dumb"}, r"\x1b"),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, r"\x1b\[[0-9;]*3[0-7]"),
    ],
)
def test_what_asks_for_no_colour_is_honoured(
    demo: Report,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    escapes: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    render_terminal(view(demo), Console(file=stream, width=80, force_terminal=True))
    assert not re.search(escapes, stream.getvalue())


def test_force_color_colours_a_file(demo: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = io.StringIO()
    render_terminal(view(demo), Console(file=stream, width=80))
    assert "\x1b[1;32m✓ fixed" in stream.getvalue()
