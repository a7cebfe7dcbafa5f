"""What the view tree shows, and in which order."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from gradscope.records import (
    Finding,
    Invariant,
    Report,
    Severity,
    Skipped,
    Status,
    Verdict,
)
from gradscope.reports import view
from gradscope.reports.nodes import (
    Card,
    Code,
    Document,
    Figure,
    Fold,
    Items,
    Section,
    Tone,
)
from gradscope.reports.wording import number, percent, shortened, visible


def strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, tuple):
        for each in node:
            yield from strings(each)
    elif is_dataclass(node):
        for field in fields(node):
            yield from strings(getattr(node, field.name))


def section(document: Document, title: str) -> Section:
    return next(each for each in document.sections if each.title == title)


def figure(document: Document) -> Figure:
    return next(
        each for each in section(document, "Signal over depth").blocks if isinstance(each, Figure)
    )


def finding(code: str, cause: str | None = None, severity: Severity = Severity.WARNING) -> Finding:
    return Finding(code, f"fault-{code}", severity, ("a",), "It is so", {}, cause)


def test_the_order_of_a_repaired_report(demo: Report) -> None:
    document = view(demo)
    assert [each.title for each in document.sections] == [
        "What is wrong and why",
        "What was tried",
        "Verdict",
        "Signal over depth",
        "Plan",
        "Skipped and refused",
        "Environment and target",
    ]
    assert document.headline.mark.word == "fixed"
    assert document.headline.text == (
        "The model learns now: accuracy rose from 0.103 to 0.811, the mean of 5 pairs of trainings."
    )


def test_causes_lead_and_symptoms_fold_under_them(demo: Report) -> None:
    cause, other = section(view(demo), "What is wrong and why").blocks
    assert isinstance(cause, Card)
    assert isinstance(other, Card)
    assert (cause.label, other.label) == ("GS204", "GS501")
    fold = cause.blocks[-1]
    assert isinstance(fold, Fold)
    assert fold.open
    (symptom,) = fold.blocks
    assert isinstance(symptom, Card)
    assert symptom.label == "GS101"
    assert {"2.61e-9", "1e-5", "measured"} <= set(strings(symptom))


@pytest.mark.parametrize(
    "findings",
    [
        (finding("A", "A"),),
        (finding("A", "B"), finding("B", "A")),
        (finding("A", "B"), finding("B", "C"), finding("C", "A")),
        (finding("A", "Z"), finding("A", "A"), finding("B", "A")),
        (finding("C", "B"), finding("B", "A"), finding("A")),
    ],
)
def test_every_finding_appears_exactly_once(healthy: Report, findings: tuple[Finding, ...]) -> None:
    blocks = section(view(replace(healthy, findings=findings)), "What is wrong and why").blocks

    def labels(nodes: object) -> Iterator[str]:
        for node in nodes if isinstance(nodes, tuple) else ():
            if isinstance(node, Card):
                yield node.label
            yield from labels(getattr(node, "blocks", ()))

    assert sorted(labels(blocks)) == sorted(each.code for each in findings)


def test_the_worst_tree_comes_first_even_if_its_cause_is_mild(healthy: Report) -> None:
    findings = (
        finding("A"),
        finding("B", severity=Severity.INFO),
        finding("C", "B", Severity.ERROR),
    )
    blocks = section(view(replace(healthy, findings=findings)), "What is wrong and why").blocks
    assert [each.label for each in blocks if isinstance(each, Card)] == ["B", "A"]


def test_a_cause_that_was_not_selected_is_named(healthy: Report) -> None:
    document = view(replace(healthy, findings=(finding("GS101", "GS204"),)))
    assert "Its cause, GS204, is not among these findings." in strings(document)


def test_the_command_can_be_copied(demo: Report) -> None:
    command = "gradscope fix 'my model.py' --out repaired"
    report = replace(demo, environment={"command": command, **demo.environment})
    _, code, items = section(view(report), "Environment and target").blocks
    assert code == Code((command,))
    assert isinstance(items, Items)
    assert "command" not in {entry.term for entry in items.entries}


def test_a_healthy_scan_is_short(healthy: Report) -> None:
    document = view(healthy)
    assert document.headline.mark.word == "healthy"
    assert document.headline.text == "No fault was found."
    assert document.headline.detail == (
        "Looked at 3 sites and 2 parameter tensors over 8 steps with 64 samples each, "
        "on its own data."
    )
    assert [each.title for each in document.sections] == [
        "Signal over depth",
        "Skipped and refused",
        "Environment and target",
    ]


def test_a_scan_with_findings_says_how_many_and_what_causes_what(demo: Report) -> None:
    headline = view(replace(demo, verdict=None)).headline
    assert headline.mark.word == "2 errors and 1 warning"
    assert headline.text == (
        "This model is unlikely to train well: forward collapse causes vanishing gradient; loss "
        "plateau."
    )


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_words(demo: Report, status: Status) -> None:
    document = view(replace(demo, verdict=Verdict(status, "the reason is this")))
    assert document.headline.text
    assert document.headline.detail.startswith("The reason is this.")
    if status is not Status.NOTHING_TO_FIX:
        assert "findings that remain" in strings(section(document, "Verdict"))


def test_the_verdict_has_all_its_numbers(demo: Report) -> None:
    shown = set(strings(section(view(demo), "Verdict")))
    assert {
        "0.103 → 0.811",
        "+0.708, 95 % interval +0.698 to +0.718",
        "< 1e-6 (paired t-test, two-sided)",
        "88.2 (Cohen's d_z)",
        "100 % → 0 %",
        "against do-nothing, learning rate x3",
        "undo restores the model",
        "GS501 loss-plateau",
    } <= shown


def test_a_broken_invariant_is_said_plainly(demo: Report) -> None:
    assert demo.verdict is not None
    verdict = replace(demo.verdict, invariants=(Invariant("outputs", False, "3 of 9 differ"),))
    shown = set(strings(section(view(replace(demo, verdict=verdict)), "Verdict")))
    assert {"broken", "3 of 9 differ"} <= shown


def test_skipped_and_refused_are_always_there(demo: Report, healthy: Report) -> None:
    shown = set(strings(section(view(demo), "Skipped and refused")))
    assert {"GS301 update-ratio", "No optimizer was given.", "skip-connection"} <= shown
    nothing = "Nothing was skipped, and no remedy was refused."
    assert nothing in strings(view(healthy))
    once = Skipped("x", "y")
    assert healthy.profile is not None
    both = replace(healthy, skipped=(once,), profile=replace(healthy.profile, skipped=(once,)))
    assert list(strings(view(both))).count("x") == 1


def test_rules_that_were_skipped_for_one_reason_share_a_line(healthy: Report) -> None:
    def too_few(code: str, needed: int) -> Skipped:
        return Skipped(code, f"8 steps were passed, {needed} are needed (--steps)")

    skipped = (
        too_few("GS301", 20),
        Skipped("layer1.0", "the gates of 2 layers cannot be seen"),
        too_few("GS501", 50),
        Skipped("GS104", "no optimizer was given"),
        too_few("GS503", 30),
        Skipped("layer2.0", "the gates of 3 layers cannot be seen"),
        Skipped("GS304", "version 2.9.0 at 1,000 has no optimizer"),
        Skipped("GS305", "version 2.9.1 at 2,000 has no optimizer"),
    )
    (items,) = section(view(replace(healthy, skipped=skipped)), "Skipped and refused").blocks
    assert isinstance(items, Items)
    assert [(entry.term, entry.text) for entry in items.entries] == [
        (
            "3 rules",
            "GS301, GS501 and GS503: 8 steps were passed, 20 to 50 are needed (--steps).",
        ),
        ("layer1.0", "The gates of 2 layers cannot be seen."),
        ("GS104", "No optimizer was given."),
        ("layer2.0", "The gates of 3 layers cannot be seen."),
        ("GS304", "Version 2.9.0 at 1,000 has no optimizer."),
        ("GS305", "Version 2.9.1 at 2,000 has no optimizer."),
    ]


def test_two_reasons_for_one_thing_are_both_said(healthy: Report) -> None:
    skipped = (Skipped("data", "a"), Skipped("data", "b"))
    shown = list(strings(section(view(replace(healthy, skipped=skipped)), "Skipped and refused")))
    assert {"A.", "B."} <= set(shown)


def test_the_signal_is_drawn_before_and_after(demo: Report) -> None:
    drawn = figure(view(demo))
    assert [chart.title for chart in drawn.charts] == [
        "Backward signal (RMS of dL/d output, per unit)",
        "Forward signal (RMS of the output)",
        "Variation across samples (std / RMS)",
        "Saturated units",
    ]
    before, after = drawn.charts[0].lines
    assert (before.name, after.name) == ("before", "after")
    assert len(before.points) == 11  # ten activations and the output


def test_a_scan_draws_one_neutral_line(demo: Report) -> None:
    (line,) = figure(view(replace(demo, verdict=None))).charts[0].lines
    assert (line.name, line.tone) == ("measured", Tone.PLAIN)


def test_thousands_of_sites_are_thinned_and_said_to_be(huge: Report) -> None:
    drawn = figure(view(huge))
    (line,) = drawn.charts[0].lines
    assert len(line.points) <= 200
    assert line.points[0][1] == pytest.approx(10.0**-11.4)  # extremes survive the thinning
    assert len(line.missing) <= 30
    assert len(drawn.table.rows) == 24
    assert drawn.table.rows[-1][1].text.startswith("encoder.layers.1999.")
    assert "24 of 2,000 sites shown; all are in the JSON report." in drawn.table.caption


def test_what_is_not_finite_does_not_break_it(hostile: Report) -> None:
    document = view(hostile)
    assert "loss went from NaN to ∞" in document.headline.text
    assert "NaN → ∞" in strings(document)


def test_no_string_holds_a_control_character(hostile: Report) -> None:
    for text in strings(view(hostile)):
        assert visible(text) == text
    assert any("\\x1b[31mred" in text for text in strings(view(hostile)))
    assert any("evil\\u202egnp.exe" in text for text in strings(view(hostile)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.12345, "0.123"),
        (0.001, "0.001"),
        (0.000999, "9.99e-4"),
        (2.6e-9, "2.6e-9"),
        (1e-5, "1e-5"),
        (-0.0002, "-2e-4"),
        (1234.5, "1,230"),
        (999.9, "1,000"),
        (99_940.0, "99,900"),
        (99_990.0, "1e5"),
        (123_456.0, "1.23e5"),
        (123_456, "123,456"),
        (math.nan, "NaN"),
        (-math.inf, "-∞"),
        (None, "–"),
    ],
)
def test_numbers_have_three_digits(value: float | None, said: str) -> None:
    assert number(value) == said


def test_names_and_shares() -> None:
    assert percent(0.125) == "12.5 %"
    assert shortened("encoder.layers.11.relu", 11) == "encod….relu"
    assert shortened("short", 11) == "short"
    assert visible("a\u200bb\n\tc\udc80") == "a\\u200bb c\\udc80"
    assert visible("größe × 雪") == "größe × 雪"


def test_importing_the_package_is_cheap(tmp_path: Path) -> None:
    code = (
        "import sys, gradscope.reports;"
        "print([m for m in ('torch','rich','jinja2','altair','vl_convert','pydantic')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
