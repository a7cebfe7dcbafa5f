"""In a notebook records show themselves: as a page in a frame, as Markdown and as text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

from gradscope.records import Findings, Plan, Report
from gradscope.reports.notebook import document_of
from tests.reports.rendered_markdown import shown

KINDS = ("text/plain", "text/markdown", "text/html")


def displayed(record: object) -> dict[str, str]:
    """What IPython sends to a notebook."""
    data, metadata = DisplayFormatter().format(record)
    assert metadata == {}
    return {kind: str(value) for kind, value in data.items()}


class Frame(HTMLParser):
    """The one frame of a fragment, and what stands around it."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.frame: dict[str, str | None] = {}
        self.around = ""
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "iframe":
            self.frame = dict(attrs)

    def handle_data(self, data: str) -> None:
        self.around += data

    @property
    def page(self) -> str:
        return self.frame["srcdoc"] or ""


@pytest.fixture
def parts(demo: Report) -> dict[str, Any]:
    assert demo.profile is not None
    return {
        "report": demo,
        "findings": Findings(demo.profile, demo.findings, demo.skipped),
        "profile": demo.profile,
        "plan": demo.plan,
        "verdict": demo.verdict,
    }


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("report", ("The model learns now", "forward-collapse", "Signal over depth", "3.11.9")),
        ("findings", ("2 errors and 1 warning", "forward-collapse", "Signal over depth")),
        ("profile", ("not diagnosed", "Looked at 21 sites", "Signal over depth", "SGD")),
        ("plan", ("1 prescription", "norm-insertion", "BatchNorm1d", "skip-connection")),
        ("verdict", ("The model learns now", "What was tried", "paired t-test")),
    ],
)
def test_every_part_shows_itself(part: str, said: tuple[str, ...], parts: dict[str, Any]) -> None:
    data = displayed(parts[part])
    assert tuple(data) == KINDS
    frame = Frame(data["text/html"])
    markdown = shown(data["text/markdown"])
    for each in said:
        assert each in data["text/plain"]
        assert each in markdown.text
        assert each in frame.page
    assert "\x1b" not in data["text/plain"]
    assert frame.tags == ["p", "iframe"]
    # A record on its own does not know of what model it is, and says nothing of its faults.
    if part in ("plan", "verdict"):
        assert "parameters" not in frame.page.partition("<main")[0]
        assert "Environment" not in frame.page
    if part == "profile":
        assert "healthy model" not in frame.page
        assert "No findings" not in frame.page


def test_nothing_gets_out_of_the_frame_and_nothing_runs_in_it(hostile: Report) -> None:
    frame = Frame(displayed(hostile)["text/html"])
    assert frame.tags == ["p", "iframe"]
    assert frame.frame["sandbox"] is None  # no permission
    assert frame.around.startswith("✗ worse, undone: The repair made training worse")
    assert "<script" not in frame.page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in frame.page
    assert re.search(r"height: \d+rem", frame.frame["style"] or "")
    assert "<svg" in frame.page


def test_a_healthy_profile_is_not_folded_away(healthy: Report) -> None:
    assert healthy.profile is not None
    text = displayed(healthy.profile)["text/plain"]
    assert "0.relu" in text
    assert "1.relu" in text


def test_thousands_of_sites_do_not_choke_a_notebook(huge: Report) -> None:
    data = displayed(huge)
    assert len(repr(huge)) > 1_000_000
    assert len(data["text/plain"]) < 20_000
    assert len(data["text/html"]) < 300_000


def test_a_single_kind_can_be_asked_for(demo: Report) -> None:
    assert list(demo._repr_mimebundle_(include=["text/plain"])) == ["text/plain"]
    assert list(demo._repr_mimebundle_(exclude=["text/html"])) == ["text/plain", "text/markdown"]
    assert demo._repr_mimebundle_(include=["image/png"]) == {}


def test_older_frontends_ask_for_html(healthy: Report) -> None:
    html = healthy._repr_html_()
    assert Frame(html).tags == ["p", "iframe"]
    assert "0.relu" in Frame(html).page


def test_printing_shows_the_record_as_before(demo: Report) -> None:
    assert repr(Plan()) == "Plan(prescriptions=(), alternatives=(), refusals=(), seed=0)"
    assert repr(replace(demo, profile=None)).startswith("Report(schema_version=2, tool=Tool(name=")


def test_a_plan_without_prescriptions_says_so() -> None:
    document = document_of(Plan())
    assert (document.headline.mark.word, document.headline.text) == (
        "0 prescriptions",
        "Nothing to apply.",
    )
