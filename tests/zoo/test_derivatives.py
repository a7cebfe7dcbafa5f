"""The search's candidates on dead networks: where they are put, and how they are judged."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from gradscope.examples.experiments.candidates import OF_RELU, TRUE
from gradscope.examples.experiments.results import Run, read_run
from tests.zoo import derivatives as on_the_zoo
from tests.zoo.examining import trained
from tests.zoo.subjects import cases

KEPT = Path(__file__).parents[2] / "docs/experiments/derivatives-on-the-zoo.json"


def entry(*values: float, higher_is_better: bool = False, name: str = "one") -> dict[str, Any]:
    return {
        "subject": "dead",
        "candidate": name,
        "metric": "loss",
        "higher_is_better": higher_is_better,
        "values": list(values),
    }


STUCK = entry(2.3, 2.31, 2.32, name=TRUE)


@pytest.mark.parametrize(
    ("found", "true", "sign"),
    [
        (entry(1.2, 1.3, 1.25), STUCK, "+"),
        (entry(3.2, 3.3, 3.25), STUCK, "-"),
        (entry(1.2, 2.31, 2.32), STUCK, ""),
        (STUCK, STUCK, ""),
        (entry(1.2, 1.3, math.nan), STUCK, "-"),
        (entry(1.2, 1.3, math.inf), entry(2.3, math.nan, 2.31), ""),
        (entry(1.2, 1.3, 1.25), entry(2.3, math.nan, 2.31), "+"),
        (entry(0.8, 0.8, 0.81, higher_is_better=True), entry(0.1, 0.1, 0.1), "+"),
    ],
)
def test_a_run_that_diverges_is_no_repair(
    found: dict[str, Any], true: dict[str, Any], sign: str
) -> None:
    assert on_the_zoo.sign(found, true) == sign


def test_the_tables_count_what_diverged() -> None:
    run = Run("", {"steps": 3, "seeds": 3}, [STUCK, entry(1.2, 1.3, math.nan)])
    counted, ended = on_the_zoo.tables(run)
    assert counted.rows[1] == ("one", "0 of 1", "1", "1 of 3", "–", "dead")
    assert ended.rows == [(TRUE, "2.31"), ("one", "1.3 (1)")]


def test_a_derivative_is_put_where_units_are_dead() -> None:
    case = cases()["convolutions-killed-by-adam"]
    subject = trained(case, 0)
    found = on_the_zoo.places(subject, case)
    assert found == [("1", 1), ("4", 1), ("6", 1)]
    by_name = {each.name: each for each in OF_RELU}
    true, artificial = (
        on_the_zoo.metric_of(subject, found, by_name[name], 30, 0)[1]
        for name in (TRUE, "sigma(1 x), selective")
    )
    assert artificial < true - 0.1


def test_the_kept_run_is_whole() -> None:
    run = read_run(KEPT)
    assert (run.settings["steps"], run.settings["seeds"]) == (300, 5)
    tried = {(each["subject"], each["candidate"]) for each in run.results}
    assert tried == {(case.name, each.name) for case in on_the_zoo.dead() for each in OF_RELU}
    assert {len(each["values"]) for each in run.results} == {5}
    assert len(run.results) == len(tried)


def test_a_candidate_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["derivatives", "--only", "nonsense"])
    with pytest.raises(SystemExit, match="2"):
        on_the_zoo.main()
    assert "no candidate is called 'nonsense'" in capsys.readouterr().err
