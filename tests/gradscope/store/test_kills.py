"""What a killed run leaves; ``kills.py`` does the same fifty times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gradscope.store import kills

MOST_LOST = 2.0
"""Seconds, by the promise of the store."""


def test_killed_runs_leave_whole_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "LONGEST", 1.0)
    left = kills.kill(tmp_path, 5, seed=1)
    assert [one.problem for one in left] == [""] * 5
    assert sum(one.steps for one in left) > 300
    assert max(one.lost for one in left) < MOST_LOST
