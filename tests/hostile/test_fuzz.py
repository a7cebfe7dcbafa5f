"""Damaged files are read or refused; ``python -m tests.hostile.fuzz`` opens many more of them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.hostile.fuzz import damaged, fuzz, main
from tests.hostile.reading import Answer, Opener
from tests.hostile.valid import FORMS


def test_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    findings = fuzz(200, seed=1, jobs=1, folder=tmp_path / "work", keep=tmp_path / "kept")
    assert not findings.faults
    outcomes = {outcome for _, outcome in findings.outcomes}
    assert outcomes == {"opened", "refused"}
    assert findings.outcomes.total() == 200


def test_what_is_damaged_is_valid(tmp_path: Path) -> None:
    with Opener(20) as opener:
        for form, write in FORMS.items():
            answer = opener.open(write(tmp_path / form))
            # A whole module is read only where its code is trusted.
            expected = "refused" if form == "module" else "opened"
            assert answer.outcome == expected, f"{form}: {answer.message}"


def test_damage_is_the_same_each_time(tmp_path: Path) -> None:
    data = FORMS["zip"](tmp_path / "a").read_bytes()
    changed = [damaged(data, random.Random(f"0 {number}")) for number in range(20)]
    assert changed == [damaged(data, random.Random(f"0 {number}")) for number in range(20)]
    assert len(set(changed)) > 15


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (Answer("opened", seconds=1.0), ""),
        (Answer("refused", "It is damaged."), ""),
        (Answer("refused", seconds=6.0), "took 6.0 s"),
        (Answer("opened", memory=3 << 30), "took 3072 MiB"),
        (Answer("raised", "KeyError: 1", "a.py:1 read"), "raised KeyError: 1 a.py:1 read"),
        (Answer("opened", ran=("os.system",)), "ran os.system"),
        (Answer("hung"), "hung"),
    ],
)
def test_what_counts_as_a_fault(answer: Answer, wrong: str) -> None:
    assert answer.wrong(5.0).strip() == wrong


def test_a_process_that_hangs_or_dies_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "waits")
    good = FORMS["safetensors"](tmp_path / "good")
    with Opener(20) as opener:
        assert opener.open(good).outcome == "opened"
        process = opener._started()
        process.kill()
        process.wait()
        assert opener.open(good).outcome == "died"
        assert opener.open(good).outcome == "opened"
        assert opener.open(tmp_path / "waits").outcome == "refused"
        opener._seconds = 0.0
        assert opener.open(good).outcome == "hung"
        opener._seconds = 20.0
        assert opener.open(good).outcome == "opened"


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--files", "9", "--jobs", "1", "--keep", str(tmp_path)]) == 0
    assert "refused" in capsys.readouterr().out
