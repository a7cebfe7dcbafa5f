"""A skip fails where none is allowed, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

SUITE = {
    "test_one.py": """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip("no chromium")

@pytest.mark.xfail
def test_is_expected_to_fail():
    assert False
""",
    "test_whole_module.py": """
import pytest

pytest.skip("no data set", allow_module_level=True)
""",
}


@pytest.mark.parametrize(
    ("no_skip", "closing"),
    [("0", "1 passed, 2 skipped, 1 xfailed"), ("1", "1 failed, 1 passed, 1 xfailed, 1 error")],
)
def test_a_skip_fails_only_where_none_is_allowed(
    tmp_path: Path, no_skip: str, closing: str
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    for name, source in SUITE.items():
        (tmp_path / name).write_text(source)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
        ],
        cwd=tmp_path,
        env=os.environ | {"GRADSCOPE_NO_SKIP": no_skip, "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    assert closing in run.stdout
    assert (run.returncode == 0) == (no_skip == "0")
