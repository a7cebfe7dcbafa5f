"""The verdict line, and what a baseline makes of findings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradscope.records import Report, Severity, Source, Status, Verdict
from gradscope.reports import view
from gradscope.reports.nodes import Card, Tone
from tests.reports.test_view import finding, section, strings


def test_what_the_baseline_has_is_known_and_comes_last(healthy: Report) -> None:
    known = replace(finding("A", severity=Severity.ERROR), known=True)
    report = replace(healthy, findings=(known, finding("B")))
    document = view(report)
    assert document.headline.mark.word == "1 new warning"
    assert document.headline.text == (
        "This model may not train well: fault B; 1 finding besides is known."
    )
    new, old = section(document, "What is wrong and why").blocks
    assert isinstance(new, Card)
    assert isinstance(old, Card)
    assert (new.label, old.label) == ("B", "A")
    assert old.mark is not None
    assert (old.mark.word, old.mark.tone) == ("known error", Tone.MUTED)
    assert "Known: the baseline has it." in strings(old)
    assert "Known: the baseline has it." not in strings(new)


def test_nothing_new_passes(healthy: Report) -> None:
    known = tuple(replace(finding(code), known=True) for code in "AB")
    headline = view(replace(healthy, findings=known)).headline
    assert headline.text == "No new findings; 2 known."
    assert (headline.mark.symbol, headline.mark.tone) == ("✓", Tone.GOOD)


def test_a_new_symptom_of_a_known_cause_is_new(healthy: Report) -> None:
    cause = replace(finding("A"), known=True)
    other = replace(finding("C", severity=Severity.ERROR), known=True)
    document = view(replace(healthy, findings=(other, cause, finding("B", "A"))))
    assert "fault A (known) causes fault B" in document.headline.text
    blocks = section(document, "What is wrong and why").blocks
    assert [each.label for each in blocks if isinstance(each, Card)] == ["A", "C"]


@pytest.mark.parametrize(
    ("severity", "said"),
    [
        (Severity.ERROR, "This model is unlikely to train well: fault A."),
        (Severity.WARNING, "This model may not train well: fault A."),
        (Severity.INFO, "Nothing seems wrong; for information: fault A."),
    ],
)
def test_the_headline_says_what_a_finding_means(
    healthy: Report, severity: Severity, said: str
) -> None:
    report = replace(healthy, findings=(finding("A", severity=severity),))
    assert view(report).headline.text == said


def test_a_repair_that_could_not_be_tried_is_not_said_to_have_failed(demo: Report) -> None:
    verdict = Verdict(Status.NO_EFFECT, "No remedy applies; nothing was tried.")
    headline = view(replace(demo, verdict=verdict)).headline
    assert headline.text == "Something is wrong, and no repair could be tried."
    assert headline.detail.endswith(
        "What is wrong: forward collapse causes vanishing gradient; loss plateau."
    )


def test_a_scan_on_made_up_inputs_is_not_called_healthy(healthy: Report) -> None:
    assert healthy.profile is not None
    report = replace(healthy, profile=replace(healthy.profile, source=Source.SYNTHETIC))
    headline = view(report).headline
    assert (headline.mark.word, headline.text) == (
        "nothing found",
        "No fault was found on made-up inputs.",
    )
    assert headline.detail.endswith("on made-up inputs, which tell nothing of the data.")
