"""``gradscope fix`` of the dying network; a file of its own, to run beside the demo's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradscope.reports import read_json

COMMAND = Path(sys.executable).with_name("gradscope")


@pytest.mark.slow
def test_the_artificial_derivative_repairs_the_dying_network(
    examples: Path, tmp_path: Path
) -> None:
    run = subprocess.run(
        [
            *(COMMAND, "fix", examples / "dying_relu.py", "--out", tmp_path / "dying"),
            *("--budget", "75"),
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode in (0, 1), run.stderr
    report = read_json((tmp_path / "dying" / "report.json").read_text(), "report.json")
    verdict = report.verdict
    assert verdict is not None
    assert report.plan is not None
    assert [entry.remedy for entry in report.plan.prescriptions] == ["artificial-derivative"]
    assert len(verdict.seeds) >= 5
    assert verdict.before is not None
    assert verdict.after is not None
    assert verdict.before >= 2 * verdict.after
    assert verdict.invariants
    assert all(invariant.held for invariant in verdict.invariants)
