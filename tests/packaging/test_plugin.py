"""A package with a rule and a remedy, installed as anybody's would be, is part of gradscope."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"

SUBJECT = """
import torch
from torch import nn
from example_plugin.rules import FrozenModel

build_model = FrozenModel().bad().build_model
build_data = FrozenModel().bad().build_data

def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])
"""


def install(place: Path, name: str = "example", code: str = "EXA101") -> Path:
    """The folder that the plugin is installed into, under another name and code if so wished."""
    sources, installed = place / "sources", place / "installed"
    shutil.copytree(PLUGIN, sources, ignore=shutil.ignore_patterns("__pycache__"))
    for path in sources.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        text = text.replace("example", name).replace("EXA101", code)
        path.write_text(text, encoding="utf-8")
    (sources / "example_plugin").rename(sources / f"{name}_plugin")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--target", str(installed))
    command = (sys.executable, "-m", "pip", "install", "--quiet", *options, str(sources))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("plugin"))


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gradscope(installed: Path, tmp_path: Path) -> Command:
    """Runs the command line in an empty folder, with the plugin and ``others`` installed."""

    def run(*arguments: str, others: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(map(str, (installed, *others)))
        return subprocess.run(
            [sys.executable, "-m", "gradscope.cli", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path, "COLUMNS": "80", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_it_is_listed_with_where_it_comes_from(gradscope: Command) -> None:
    run = gradscope("rule")
    assert run.returncode == 0, run.stderr
    said = " ".join(run.stdout.split())
    assert "GS201 dead-relu" in said
    assert "EXA101 frozen-model Most of the model is frozen (gradscope-example-plugin 1.2)" in said


def test_it_fires_and_takes_its_limits_from_the_settings(
    gradscope: Command, tmp_path: Path
) -> None:
    (tmp_path / "subject.py").write_text(SUBJECT)
    scan = ("scan", "subject.py", "--format", "json", "--select", "EXA")
    fired = gradscope(*scan)
    assert fired.returncode == 1, fired.stderr
    (finding,) = json.loads(fired.stdout)["findings"]
    assert (finding["code"], finding["remedies"]) == ("EXA101", ["thaw"])

    (tmp_path / "pyproject.toml").write_text("[tool.gradscope.rules.frozen-model]\nfrozen = 0.99\n")
    silent = gradscope(*scan)
    assert (silent.returncode, json.loads(silent.stdout)["findings"]) == (0, [])


def test_a_code_that_is_taken_is_refused(gradscope: Command, tmp_path: Path) -> None:
    run = gradscope("rule", others=(install(tmp_path, "other", "GS201"),))
    assert run.returncode == 3
    assert run.stderr.endswith("both have the code 'GS201'; uninstall one of them.\n")
    for where in ("DeadReLU of gradscope ", "FrozenModel of gradscope-other-plugin 1.2 "):
        assert where in run.stderr
