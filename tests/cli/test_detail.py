"""``--quiet`` and ``--verbose`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradscope.reports import render_json
from tests.reports.conftest import demo_report, healthy_report


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    path = tmp_path / "demo.json"
    path.write_text(render_json(demo_report()), encoding="utf-8")
    return path


@pytest.fixture
def healthy_one(tmp_path: Path) -> Path:
    path = tmp_path / "healthy.json"
    path.write_text(render_json(healthy_report()), encoding="utf-8")
    return path


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_is_one_line_and_one_for_each_finding(
    gradscope: Any, demo: Path, healthy_one: Path, option: str
) -> None:
    assert len(gradscope("report", demo, option).out.splitlines()) == 4
    assert len(gradscope("report", healthy_one, option).out.splitlines()) == 1
    compared = gradscope("compare", demo, healthy_one, option).out.splitlines()
    assert [line.split()[1] for line in compared[1:]] == ["gone"] * 3


@pytest.mark.parametrize("option", ["-v", "--verbose"])
def test_verbose_opens_folds(gradscope: Any, demo: Path, option: str) -> None:
    assert "▸ 1 alternative" in gradscope("report", demo).out
    assert "↳ 1 alternative" in gradscope("report", demo, option).out


@pytest.mark.parametrize("command", ["scan", "fix", "report", "compare"])
def test_both_at_once_are_refused(gradscope: Any, demo: Path, tmp_path: Path, command: str) -> None:
    more = {"fix": ["--out", tmp_path / "out"], "compare": [demo]}.get(command, [])
    run = gradscope(command, demo, *more, "-q", "-v")
    assert (run.status, run.out) == (2, "")
    assert "--quiet and --verbose exclude each other" in run.err


def test_quiet_tells_no_progress(gradscope: Any, sick: Path) -> None:
    loud, quiet = gradscope("scan", sick), gradscope("scan", sick, "--quiet")
    assert "profiling" in loud.err
    assert (quiet.status, quiet.err) == (loud.status, "")
    verdict, *findings = quiet.out.splitlines()
    assert verdict.startswith("✗ ")
    assert findings
    assert all(line.split()[2].startswith("GS") for line in findings)
