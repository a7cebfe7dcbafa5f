"""stdout and stderr of any encoding, and readers that go away; in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradscope.records import Target
from gradscope.reports import render_json
from tests.reports.conftest import demo_report, healthy_report

MAIN = "from gradscope.cli import main\nmain()\n"
SEVERAL = """
import json, sys
from gradscope.cli import main

ended = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as status:
        ended.append(int(status.code or 0))
print("ended", json.dumps(ended))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    (folder / "demo.json").write_text(render_json(demo_report()), encoding="utf-8")
    (folder / "healthy.json").write_text(render_json(healthy_report()), encoding="utf-8")
    named = replace(healthy_report(), target=Target("grün→中", "subject file", 1))
    (folder / "grün→中.json").write_text(render_json(named), encoding="utf-8")
    torch.save({"grün→中.weight": torch.zeros(8, 4)}, folder / "c.pt")
    return folder


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUTF8"}
    return {**kept, "COLUMNS": "80", **more}


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1252"])
def test_no_character_is_too_much(folder: Path, encoding: str) -> None:
    commands = [
        ["report", "demo.json"],
        ["report", "demo.json", "--verbose"],
        ["report", "grün→中.json"],
        ["--help"],
        ["report", "gibt→es→nicht.json"],
    ]
    if encoding == "cp437":
        # These need torch, which takes its time.
        commands += [
            ["scan", "c.pt"],
            ["compare", "demo.json", "healthy.json"],
            ["rule", "GS101"],
            ["remedy", "artificial-derivative"],
        ]
    run = subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps(commands)],
        cwd=folder,
        env=environment(PYTHONIOENCODING=encoding),
        capture_output=True,
        check=False,
    )
    # To a stderr of ASCII click writes UTF-8 all the same.
    out, err = run.stdout.decode(encoding), run.stderr.decode(encoding, "replace")
    assert out.splitlines()[-1] == f"ended {([0, 0, 0, 0, 3] + [0] * 4)[: len(commands)]}", err
    assert "Traceback" not in err
    assert "gibt->es->nicht.json" in err or encoding == "ascii"
    assert "+ fixed  The model learns now" in out
    green = "grün" if encoding != "ascii" else "gr\\xfcn"
    assert f"{green}->\\u4e2d" in out


@pytest.mark.parametrize(
    "arguments", [["report", "demo.json"], ["report", "demo.json", "--format", "json"], ["--help"]]
)
def test_a_reader_that_goes_away_is_no_error(folder: Path, arguments: list[str]) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert run.stdout is not None
    run.stdout.close()
    run.stdout = None
    _, err = run.communicate()
    assert (run.returncode, err) == (141, b"")
