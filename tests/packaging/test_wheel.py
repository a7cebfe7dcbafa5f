"""The wheel holds everything and works alone, away from the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {
    "gradscope": "gradscope",
    "cli": "gradscope/cli",
    "examples": "gradscope/examples",
    "reports": "gradscope/reports",
}


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without this process's Python path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, built from a copy of the sources."""
    sources = tmp_path_factory.mktemp("sources")
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, sources)
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    build = run(sys.executable, "-m", "build", "--no-isolation", folder=sources)
    assert build.returncode == 0, build.stdout + build.stderr
    (built,) = (sources / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of a fresh environment with the wheel, which borrows this one's dependencies.

    The borrowed folder stands on the path by a ``.pth`` file. Python does not carry out the
    ``.pth`` files inside such a folder, so an editable installation in it stays switched off.
    """
    environment = tmp_path_factory.mktemp("alone") / "venv"
    created = run(
        sys.executable, "-m", "venv", "--without-pip", environment, folder=environment.parent
    )
    assert created.returncode == 0, created.stderr
    scripts = environment / "bin"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(scripts / "python", "-c", where, folder=environment).stdout.strip())
    borrowed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (packages / "borrowed.pth").write_text("\n".join(borrowed))

    assert run(scripts / "python", "-c", "import torch", folder=environment).returncode == 0
    leaked = run(scripts / "python", "-c", "import gradscope", folder=environment)
    assert leaked.returncode != 0, "gradscope comes from somewhere other than the wheel"

    command = ("-m", "pip", "--python", scripts / "python", "install", "--no-deps", "--no-index")
    install = run(sys.executable, *command, wheel, folder=environment)
    assert install.returncode == 0, install.stderr
    return scripts


def test_the_wheel_holds_every_file_under_gradscope_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if name.startswith("gradscope/")}
    beside = {name.partition("/")[0] for name in names} - {"gradscope"}
    expected = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == expected
    assert [name for name in beside if not name.endswith(".dist-info")] == []


def test_the_wheel_is_what_is_imported(installed: Path) -> None:
    where = "import gradscope, gradscope.cli; print(gradscope.__file__, gradscope.cli.__file__)"
    answer = run(installed / "python", "-c", where, folder=installed)
    assert answer.returncode == 0, answer.stderr
    assert all(file.startswith(str(installed.parent)) for file in answer.stdout.split())


@pytest.mark.parametrize("name", ["cli", "examples", "reports"])
def test_what_stands_on_top_in_the_repository_does_not_once_installed(
    installed: Path, name: str
) -> None:
    assert run(installed / "python", "-c", f"import {name}", folder=installed).returncode != 0


def test_the_shipped_data_loads(installed: Path) -> None:
    load = (
        "from gradscope.examples.fashion_mnist import SAMPLE, load_fashion_mnist\n"
        "print(*load_fashion_mnist(SAMPLE).train_images.shape)"
    )
    answer = run(installed / "python", "-c", load, folder=installed)
    assert answer.stdout.split() == ["6000", "1", "28", "28"], answer.stderr


def test_help(installed: Path, tmp_path: Path) -> None:
    answer = run(installed / "gradscope", "--help", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "scan" in answer.stdout


@pytest.mark.slow
def test_the_shipped_example_is_gone_through(installed: Path, tmp_path: Path) -> None:
    """As the demo does, in less time: whether it is repaired by that is for other tests."""
    target = "gradscope.examples.deep_sigmoid_mlp"
    arguments = ("fix", target, "--unsafe", "--budget", "10", "--out", "repaired")
    answer = run(installed / "gradscope", *arguments, folder=tmp_path)
    assert answer.returncode in (0, 1), answer.stdout + answer.stderr
    written = {path.name for path in (tmp_path / "repaired").iterdir()}
    assert {"report.html", "report.json", "plan.json"} <= written
