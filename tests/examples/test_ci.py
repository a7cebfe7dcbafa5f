"""The examples for continuous integration: valid files, and their commands run for real."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import parse

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner, Result
from pre_commit import clientlib

from gradscope.cli import main

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "examples" / "ci" / "gradscope.yml"
CONFIG = ROOT / "examples" / "ci" / ".pre-commit-config.yaml"
MANIFEST = ROOT / ".pre-commit-hooks.yaml"
BIN = Path(sys.executable).parent

SUBJECT = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(
        *[m for i in range({depth}) for m in (nn.Linear(8 if i else 4, 8), nn.{kind}())],
        nn.Linear(8, 3),
    )

def build_data():
    return [(x, x[:, :3].argmax(1)) for x in torch.randn(8, 64, 4)]

def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])
"""
SICK = SUBJECT.format(depth=10, kind="Sigmoid")
HEALTHY = SUBJECT.format(depth=1, kind="ReLU")


def ran(command: Sequence[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    beside = {"PATH": path, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        command, cwd=folder, env=os.environ | beside, capture_output=True, text=True, check=False
    )


# --- GitHub Actions ---------------------------------------------------------------------------


def validated(path: Path, schema: str) -> Result:
    return CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, str(path)])


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ("vendor.github-workflows", "runs-on:", "run-on:"),
        ("custom.github-workflows-require-timeout", "timeout-minutes: 20", "name: scan"),
    ],
)
def test_the_workflow_is_one(tmp_path: Path, schema: str, right: str, wrong: str) -> None:
    done = validated(WORKFLOW, schema)
    assert done.exit_code == 0, done.output
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOW.read_text().replace(right, wrong))
    assert validated(broken, schema).exit_code == 1


def test_the_workflow_may_do_little_and_pins_what_it_uses() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    (job,) = workflow["jobs"].values()
    assert workflow["permissions"] == {"contents": "read"}
    assert job["permissions"] == {"contents": "read", "security-events": "write"}
    used = {step["uses"]: step for step in job["steps"] if "uses" in step}
    assert all(re.fullmatch(r"[\w.-]+(/[\w.-]+)+@v\d+", name) for name in used)
    (upload,) = (step for name, step in used.items() if "upload-sarif" in name)
    assert upload["if"].startswith("always()")
    assert upload["with"]["sarif_file"] == "gradscope.sarif"


def steps() -> dict[str, Any]:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    return {step["name"]: step for step in job["steps"] if "name" in step}


def test_every_command_of_the_workflow_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    (tmp_path / workflow["env"]["TARGET"]).write_text(SICK)
    variables = {**workflow["env"], "GITHUB_STEP_SUMMARY": "summary.md"}

    def step(name: str) -> subprocess.CompletedProcess[str]:
        # As GitHub runs a step of bash.
        return ran(["bash", "-e", "-c", steps()[name]["run"]], tmp_path, **variables)

    (told,) = re.findall(r"^#   (gradscope scan .*)$", WORKFLOW.read_text(), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", shlex.split(told))
    with pytest.raises(SystemExit, match="0"):
        main()
    baseline = tmp_path / workflow["env"]["BASELINE"]
    report = json.loads(baseline.read_text())
    baseline.write_text(json.dumps({**report, "findings": []}))
    assert step("Scan").returncode == 1
    reported = step("Report")
    assert reported.returncode == 0, reported.stderr
    log = json.loads((tmp_path / "gradscope.sarif").read_text())
    (result,) = (each for each in log["runs"][0]["results"] if each["ruleId"] == "GS101")
    assert result["baselineState"] == "new"
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place["uri"] == workflow["env"]["TARGET"]
    suites = parse(tmp_path / steps()["Tests"]["with"]["report_paths"]).getroot()
    assert suites.get("failures") == str(len(report["findings"]))
    assert "GS101" in (tmp_path / "summary.md").read_text()
    for name in steps()["Files"]["with"]["path"].split():
        assert (tmp_path / name).stat().st_size > 0, name


# --- pre-commit -------------------------------------------------------------------------------


def the_hook(path: Path) -> dict[str, Any]:
    read = yaml.safe_load(path.read_text())
    (hook,) = read if path == MANIFEST else read["repos"][0]["hooks"]
    return dict(hook)


def test_pre_commit_takes_both_files(tmp_path: Path) -> None:
    clientlib.load_config(CONFIG)
    clientlib.load_manifest(MANIFEST)
    broken = tmp_path / "hooks.yaml"
    broken.write_text(MANIFEST.read_text().replace("entry:", "command:"))
    with pytest.raises(clientlib.InvalidManifestError, match="entry"):
        clientlib.load_manifest(broken)


def test_the_example_is_the_hook() -> None:
    hook, example = the_hook(MANIFEST), the_hook(CONFIG)
    for key in ("id", "entry", "language", "files", "require_serial"):
        assert example[key] == hook[key], key


@pytest.mark.parametrize(
    ("path", "scanned"),
    [("subject.py", True), ("nets/subject_small.py", True), ("nets/model.py", False)],
)
def test_the_hook_is_for_subject_files(path: str, scanned: bool) -> None:
    assert (re.search(the_hook(MANIFEST)["files"], path) is not None) is scanned


def test_the_hook_scans_each_of_several_files(tmp_path: Path) -> None:
    hook = the_hook(CONFIG)
    (tmp_path / "subject.py").write_text(SICK)
    (tmp_path / "subject b; $HOME.py").write_text(HEALTHY)
    # As pre-commit calls it.
    command = [*shlex.split(hook["entry"]), *hook["args"], "subject.py", "subject b; $HOME.py"]
    done = ran(command, tmp_path)
    assert done.returncode == 1, done.stderr
    first, second = done.stdout.split("subject b; $HOME.py:\n")
    assert first.startswith("subject.py:\n")
    assert "GS101" in first
    assert "GS101" not in second
    assert second.strip()
    assert done.stderr == ""


def test_the_hook_passes_options_on_and_keeps_a_failure(tmp_path: Path) -> None:
    fake = tmp_path / "gradscope"
    fake.write_text('#!/bin/sh\nprintf "%s|" "$@"; echo\nfor last; do :; done\nexit ${last#s}\n')
    fake.chmod(0o755)
    entry = shlex.split(the_hook(MANIFEST)["entry"])
    variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    # Variables of whoever commits must not get in.
    variables |= {"options": "--nonsense", "status": "5", "each": "x"}
    done = ran([*entry, "--fail-on=error", "--select=GS1", "s0", "s3", "s0"], tmp_path, **variables)
    assert done.returncode == 3
    told = [f"scan|--quiet|--fail-on=error|--select=GS1|--|{file}|" for file in ("s0", "s3", "s0")]
    assert done.stdout.splitlines() == ["s0:", told[0], "s3:", told[1], "s0:", told[2]]
    done = ran([*entry, "s0"], tmp_path, **variables)
    assert (done.returncode, done.stdout) == (0, "s0:\nscan|--quiet|--|s0|\n")
