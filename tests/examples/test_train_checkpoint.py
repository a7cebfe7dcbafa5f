"""The example that writes a checkpoint: what a scan names in it, and that its twin is healthy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradscope.examples.fashion_mnist import SAMPLE
from gradscope.pipeline import scan_checkpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_checkpoint.py"


def ran(*command: object, columns: int = 80) -> subprocess.CompletedProcess[str]:
    beside = {"GRADSCOPE_DATA": str(SAMPLE), "OMP_NUM_THREADS": "1", "COLUMNS": str(columns)}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | beside,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "checkpoint.pt"
    done = ran(EXAMPLE, path)
    assert done.returncode == 0, done.stderr
    return path


def test_a_scan_names_the_dead_layers_and_the_vanishing_front(checkpoint: Path) -> None:
    done = ran("-m", "gradscope.cli", "scan", checkpoint, "--format", "json")
    assert done.returncode == 1
    findings: dict[str, Any] = {each["code"]: each for each in json.loads(done.stdout)["findings"]}
    assert findings.keys() == {"GS101", "GS201"}
    assert "13.weight" in findings["GS201"]["sites"]
    assert findings["GS101"]["sites"][:3] == ["1.bias", "3.bias", "5.bias"]
    # Neither of the two faults brings the other about.
    assert all(each["cause"] is None for each in findings.values())


def test_eighty_columns_show_both_at_a_glance(checkpoint: Path) -> None:
    shown = ran("-m", "gradscope.cli", "scan", checkpoint).stdout.splitlines()
    # The command alone is not broken, so that it can be copied.
    assert max(len(line) for line in shown if " -m gradscope.cli " not in line) <= 80
    assert "vanishing gradient; dead ReLU" in "".join(shown[:6])
    (first,) = (line for line in shown if line.split()[:2] == ["1", "1.weight"])
    (last,) = (line for line in shown if line.split()[:2] == ["9", "17.weight"])
    assert "━" not in first
    assert "━━━" in last


def test_its_twin_is_healthy(tmp_path: Path) -> None:
    assert ran(EXAMPLE, tmp_path / "healthy.pt", "--healthy").returncode == 0
    assert scan_checkpoint(tmp_path / "healthy.pt").findings == ()
