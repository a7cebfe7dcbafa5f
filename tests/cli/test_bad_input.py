"""Bad input: exit 2 or 3, one sentence that names the thing, and nothing half written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(sys.executable).with_name("gradscope")


def told(run: Any, status: int, *named: str) -> None:
    """One line beside the progress, which names what is wrong."""
    assert run.status == status, run.err
    assert "Traceback" not in run.err
    assert len(run.said.splitlines()) == 1, run.err
    assert run.said.startswith("gradscope: ")
    for word in named:
        assert word in run.said
    assert run.out == ""


@pytest.mark.parametrize(
    ("target", "status", "named"),
    [
        ("missing.py", 3, "missing.py does not exist"),
        ("missing.py:make", 3, "missing.py does not exist"),
        ("no.such.module", 3, "no.such.module"),
        ("torch", 3, "build_model()"),
        ("weights.pt", 3, "weights.pt is a zip file that is cut short"),
        ("model.safetensors", 3, "model.safetensors does not exist"),
        ("folder", 3, "folder holds no checkpoint"),
        ("notes.txt", 3, "notes.txt is a text file"),
        ("", 2, "name a subject file"),
    ],
)
def test_a_target_that_is_none(
    gradscope: Any, tmp_path: Path, target: str, status: int, named: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("no code")
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04")
    told(gradscope("scan", target), status, named)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"build_model": ""}, "build_model()"),
        ({"loss": ""}, "without a loss; name one with --loss"),
        ({"build_model": "return 1 / 0"}, "ZeroDivisionError"),
        ({"build_model": "return 5"}, "returned a int"),
        ({"build_model": "return nn.ReLU()"}, "no parameters"),
        ({"build_model": "return nn.Linear(5, 3)"}, "64x4"),
        ({"build_data": "return []"}, "no batch"),
        ({"build_data": "return None"}, "data"),
        ({"build_data": "raise FileNotFoundError('data.bin')"}, "data.bin"),
        ({"build_data": "yield 1 / 0"}, "ZeroDivisionError"),
        ({"loss": "return output"}, "not a scalar"),
        ({"loss": "return 0.5"}, "not a tensor"),
        ({"loss": "raise KeyError('labels')"}, "labels"),
        ({"loss": "import sys; sys.exit(0)"}, "exit"),
    ],
)
def test_a_subject_that_fails(
    gradscope: Any, write: Callable[..., Path], changes: dict[str, str], named: str
) -> None:
    told(gradscope("scan", write(**changes)), 3, named)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("def build_model(:\n", "line 1"),
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
        ("build_model = 5\n", "not a function"),
        ("import sys\nsys.exit(0)\n", "exit"),
        ("\x00", "subject.py"),
        ("", "build_model()"),
    ],
)
def test_a_file_that_cannot_be_imported(
    gradscope: Any, tmp_path: Path, source: str, named: str
) -> None:
    path = tmp_path / "subject.py"
    path.write_text(source)
    told(gradscope("scan", path), 3, "subject.py", named)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--select", "GS999"], "'GS999'"),
        (["--ignore", "nonsense"], "'nonsense'"),
        (["--input-shape", "3x32"], "'3x32'"),
        (["--input-shape", "0,4"], "'0,4'"),
        (["--input-shape", ""], "''"),
        (["--input-shape", "-1"], "'-1'"),
        (["--device", "nonsense"], "nonsense"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--device", "meta"], "meta"),
        (["--seed", "99999999999999999999999"], "99999999999999999999999"),
        (["--trust-pickle"], "--trust-pickle"),
        (["second.py"], "only checkpoints can be given together"),
        (["--input-shape", "4", "--data", "x.py"], "exclude"),
        (["--output", "nowhere/report.txt"], "nowhere/report.txt"),
        (["--output", "."], "."),
    ],
)
def test_an_option_that_cannot_be_meant(
    gradscope: Any, healthy: Path, arguments: list[str], named: str
) -> None:
    told(gradscope("scan", healthy, *arguments), 2, named)


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--seed", "-1"], ["--format", "docx"]])
def test_an_option_out_of_range(gradscope: Any, healthy: Path, arguments: list[str]) -> None:
    run = gradscope("scan", healthy, *arguments)
    assert run.status == 2
    assert arguments[0] in run.err
    assert "Traceback" not in run.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seeds", "4"], "at least 5"),
        (["--budget", "0"], "--budget is 0.0"),
        (["--budget", "-3"], "--budget is -3.0"),
        (["--budget", "nan"], "--budget is nan"),
        (["--budget", "inf"], "--budget is inf"),
        (["--remedy", "magic"], "'magic'"),
        (["--output", "nowhere/report.txt"], "nowhere/report.txt"),
    ],
)
@pytest.mark.parametrize("state", ["healthy", "sick"])
def test_an_option_of_fix_that_cannot_be_meant(
    gradscope: Any,
    request: pytest.FixtureRequest,
    state: str,
    arguments: list[str],
    named: str,
) -> None:
    """Whether anything is to fix does not matter, and it is told before anything is trained."""
    target = request.getfixturevalue(state)
    budget = [] if "--budget" in arguments else ["--budget", "0.01"]
    seeds = [] if "--seeds" in arguments else ["--seeds", "5"]
    run = gradscope("fix", target, "--out", "results", "--unsafe", *budget, *seeds, *arguments)
    told(run, 2, named)
    assert not any("trying" in line for line in run.err.splitlines())
    assert not list(Path("results").glob("*"))


def test_a_folder_that_cannot_be_made(gradscope: Any, healthy: Path) -> None:
    told(gradscope("fix", healthy, "--out", healthy / "results"), 2, "results")


def test_a_folder_that_cannot_be_written_to(
    gradscope: Any, healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root, as which tests often run, may write anywhere.
    monkeypatch.setattr("os.access", lambda *_: False)
    told(gradscope("fix", healthy, "--out", "locked"), 2, "locked is not writable")


@pytest.mark.parametrize("output", ["nowhere/report.json", "."])
def test_nothing_half_written_is_left(gradscope: Any, healthy: Path, output: str) -> None:
    before = sorted(Path().glob("*"))
    beside = sorted(Path("..").glob("*"))
    run = gradscope("scan", healthy, "--format", "json", "--output", output)
    assert run.status == 2
    assert [path for path in sorted(Path().glob("*")) if path.name != "__pycache__"] == before
    assert sorted(Path("..").glob("*")) == beside


def test_an_output_that_is_a_folder_leaves_no_temporary_file(gradscope: Any, healthy: Path) -> None:
    Path("taken").mkdir()
    told(gradscope("scan", healthy, "--output", "taken"), 2, "taken")
    assert [path.name for path in Path().glob("taken*")] == ["taken"]


def test_a_subject_that_fails_leaves_no_folder(gradscope: Any, write: Callable[..., Path]) -> None:
    run = gradscope("fix", write(build_model="return 1 / 0"), "--out", "results")
    assert run.status == 3
    assert not Path("results").exists()


def test_debug_shows_the_traceback(write: Callable[..., Path]) -> None:
    target = write(build_model="return 1 / 0")
    run = subprocess.run([COMMAND, "scan", target, "--debug"], capture_output=True, text=True)
    assert run.returncode == 3
    assert "Traceback" in run.stderr
    assert "return 1 / 0" in run.stderr
    assert run.stderr.rstrip().splitlines()[-1].startswith("gradscope: ")
    assert run.stdout == ""


def test_debug_may_stand_before_the_command(gradscope: Any, write: Callable[..., Path]) -> None:
    run = gradscope("--debug", "scan", write(build_model="return 1 / 0"))
    assert run.status == 3
    assert "Traceback" in run.err
