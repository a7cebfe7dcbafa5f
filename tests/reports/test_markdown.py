"""Markdown fits a comment, and a Markdown parser shows every name to the letter."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradscope.records import Finding, Measure, Report, Severity, Source
from gradscope.reports import render_markdown, view
from gradscope.reports.drawing.files import COLOURS
from gradscope.reports.markdown import markdown_with_pictures
from gradscope.reports.markdown_text import block_start, code, fenced, html, inline
from gradscope.reports.nodes import (
    Card,
    Cell,
    Chart,
    ChartKind,
    Code,
    Column,
    Document,
    Entry,
    Figure,
    Fold,
    Headline,
    HeatMap,
    Items,
    Line,
    Mark,
    Names,
    Paragraph,
    Section,
    Table,
    Tone,
)
from gradscope.reports.wording import visible
from tests.reports.rendered_markdown import shown

COMMENT = 65_536
"""Characters that GitHub takes in one comment."""
REPORTS = Path(__file__).parents[2] / "reports"
GOOD = Mark("✓", "held", Tone.GOOD)
NASTY = st.text(
    st.sampled_from("ab1 \\`*_{}[]()<>#|~&@$!:;.,+-=/'\"\n\t\0\x1b\u202eé語🔥w"), max_size=24
)
MEANT_OTHERWISE = (
    "<script>alert(1)</script>",
    "**bold** _it_ ~~no~~",
    "[x](javascript:alert(1)) ![i](http://a.b/c.png) <http://a.b>",
    "@someone owner/repo#12 #34 GH-5 deadbee1 :smile: www.a.b https://a.b",
    "a|b \\| c\\",
    "`a` ``b`` ```",
    "1. one",
    "12) two",
    "- three",
    "+",
    "---",
    "===",
    "# heading",
    "    indented",
    "> quote",
    "~~~",
    "&lt;b&gt; &amp; &copy;",
    "<!-- a -->",
    "<details><summary>x",
    "$x$ ${{ github.token }}",
    "]]>",
    "::error::bad",
)
REFERENCE = re.compile(r"@\w|#\d|GH-\d|://|www\.|:\w+:|deadbee1", re.IGNORECASE)


def document(*sections: Section, title: str = "model.py") -> Document:
    return Document(title, "subject file", Headline(GOOD, "No findings.", "Looked."), sections)


def with_blocks(*blocks: object) -> str:
    return render_markdown(document(Section("Part", blocks)))  # type: ignore[arg-type]


def every(*texts: str):  # type: ignore[no-untyped-def]
    """Examples that hypothesis has to try."""

    def decorated(test):  # type: ignore[no-untyped-def]
        for text in texts:
            test = example(text)(test)
        return test

    return decorated


@every(*MEANT_OTHERWISE)
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(NASTY)
def test_running_text_is_seen_as_it_is(text: str) -> None:
    wanted = visible(text).strip(" ")
    seen = shown(block_start(inline(text)))
    assert seen.text.strip("\n") == wanted
    assert set(seen.tags) <= {"p", "code"}
    assert not REFERENCE.search(seen.plain)
    folded = shown(f"<details><summary>{html(text)}</summary>\n\n</details>")
    assert folded.folds == [wanted]
    assert set(folded.tags) <= {"details", "summary", "code"}
    assert not REFERENCE.search(folded.plain)


@every(*MEANT_OTHERWISE)
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(NASTY)
def test_names_and_cells_of_a_table_are_seen_as_they_are(text: str) -> None:
    wanted = visible(text)
    named = Table(
        (Column("na|me", name=True), Column("text")), ((Cell(text), Cell(text)), (Cell("x"),) * 2)
    )
    seen = shown(with_blocks(named))
    assert [len(row) for row in seen.rows] == [2, 2, 2]
    assert seen.rows[0] == ["na|me", "text"]
    assert seen.rows[1] == [wanted, wanted.strip(" ")]
    assert "script" not in seen.tags
    assert not REFERENCE.search(seen.plain)
    if wanted.strip():
        assert shown(f"x {code(text)} y").codes == [wanted]


@every("```", "    a", "::error::x", "</details>")
@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(NASTY)
def test_lines_to_copy_are_seen_as_they_are(text: str) -> None:
    assert shown(fenced((text, "second"))).codes == [f"{visible(text)}\nsecond\n"]


def test_every_block_is_shown_and_what_is_folded_is_folded() -> None:
    inner = Card(GOOD, "GS101", "vanishing", (Paragraph("inside"),))
    text = with_blocks(
        Paragraph("first"),
        Names("where", ("a_b", "c"), more=1200),
        Items((Entry("term", "said", GOOD), Entry("other", "more"))),
        Code(("import x", "  y")),
        Fold("closed *one*", (inner,)),
        Fold("opened", (Paragraph("there"),), open=True),
    )
    text += render_markdown(document(Section("Away", (Paragraph("last"),), folded=True)))
    assert text.startswith("## ✓ held: No findings.\n\nLooked.\n\n**model.py** · subject file\n")
    assert "- **where:** `a_b`, `c` and 1,200 more" in text
    assert "- **term:** ✓ held: said\n- **other:** more" in text
    assert "```\nimport x\n  y\n```" in text
    assert "<details><summary>opened</summary>\n\nthere\n\n</details>" in text
    assert "<details><summary>Away</summary>\n\nlast\n\n</details>" in text
    seen = shown(text)
    assert seen.folds == ["closed *one*", "opened", "Away"]
    assert "✓ held · GS101 vanishing" in seen.text
    assert seen.tags.count("details") == 3


def test_bars_and_charts_are_told_in_characters() -> None:
    table = Table(
        (Column("site", name=True), Column("signal", numeric=True)),
        (
            (Cell("a"), Cell("1", bar=1.0)),
            (Cell("b"), Cell("0.5", bar=0.5)),
            (Cell("c"), Cell("–")),
        ),
        "Input to output.",
    )
    line = Line("before", Tone.BAD, ((1, 1e-3), (2, 1e-2), (3, 1.0)), missing=(4,))
    chart = Chart(ChartKind.LINES, "Signal", "It rises.", "site", (line,), logarithmic=True)
    heat = HeatMap("Heat", "It cools.", "step", (1.0,), (("a", (1.0,)),))
    text = with_blocks(Figure((chart, heat), table))
    assert "| site | signal |\n| --- | ---: |\n| `a` | 1 ████████ |\n| `b` | 0.5 ████░░░░ |" in text
    assert "| `c` | – ░░░░░░░░ |" in text
    assert "It rises.\n\n```\nbefore  ▁▃█×\n```" in text
    assert "It cools." in text
    assert "<sub>Input to output.</sub>" in text


@pytest.mark.parametrize("name", ["demo", "healthy", "hostile", "huge"])
def test_reports_are_markdown_that_fits(name: str, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(name)
    tree = view(report)
    text = render_markdown(tree)
    assert len(text) < COMMENT
    seen = shown(text)
    # Verdict first; every section is there.
    assert seen.text.startswith(f"{tree.headline.mark.symbol} {tree.headline.mark.word}")
    for section in tree.sections:
        assert section.title in seen.text
    assert tree.title in seen.text
    assert {"script", "img", "a"}.isdisjoint(seen.tags)
    assert not REFERENCE.search(seen.plain)


def test_thousands_of_findings_with_long_names_fit(demo: Report) -> None:
    names = tuple(f"{'encoder.' * 30}{index}{'.block' * 40}|`@x`" for index in range(2_000))
    findings = tuple(
        Finding(
            f"GS{index}",
            "vanishing-gradient",
            Severity.ERROR,
            names[index : index + 20],
            f"The signal at {names[index]} is low",
            {"ratio": Measure(1e-9, 1e-5, Source.MEASURED)},
        )
        for index in range(2_000)
    )
    text = render_markdown(view(replace(demo, findings=findings)))
    assert len(text.encode()) < COMMENT
    seen = shown(text)
    assert seen.text.startswith("✓ fixed")
    assert "GS0" in seen.text
    assert "left out here" in seen.text
    # What comes after the findings is there, too.
    assert "Environment and target" in seen.text


def test_what_no_size_can_hold_is_left_out_with_a_word() -> None:
    wide = tuple(Column(f"column {index}") for index in range(6_000))
    table = Table(wide, (tuple(Cell("value") for _ in wide),))
    text = render_markdown(document(Section("Wide", (table,)), Section("End", (Paragraph("z"),))))
    assert len(text.encode()) < COMMENT
    seen = shown(text)
    assert "column 1" not in seen.text
    assert "Shortened to fit into a comment" in seen.text
    assert "z" in seen.text


def test_names_that_are_cut_are_still_told_apart() -> None:
    names = [f"{'a' * 400}.{index}.{'b' * 400}" for index in range(30)]
    table = Table((Column("site", name=True),), tuple((Cell(name),) for name in names))
    seen = shown(with_blocks(*(Fold(str(part), (table,) * 3) for part in range(3))))
    cells = [row[0] for row in seen.rows if row != ["site"]]
    assert len(set(cells)) == len(set(cells[:24])) > 10
    assert all(len(cell) <= 120 for cell in cells)


def test_pictures_stand_beside_a_file(demo: Report) -> None:
    text, pictures = markdown_with_pictures(view(demo), "my report")
    assert list(pictures) == [f"my report-{number}.svg" for number in range(1, len(pictures) + 1)]
    assert len(pictures) >= 4
    seen = shown(text)
    assert seen.links == [name.replace(" ", "%20") for name in pictures]
    assert "The numbers" in seen.folds
    for svg in pictures.values():
        assert "var(" not in svg
        drawn = ET.fromstring(svg)
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg"


def test_pictures_know_every_colour_of_the_page() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in REPORTS.rglob("*.py"))
    used = set(re.findall(r"var\(--([a-z]+)", sources))
    assert used
    assert used <= set(COLOURS)
