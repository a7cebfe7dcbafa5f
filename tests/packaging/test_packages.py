"""pyproject.toml says what the folders say."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import gradscope

ROOT = Path(__file__).parent.parent.parent
ON_TOP = {"cli", "examples", "reports"}
REPORTS_MAY_IMPORT = {
    *("errors", "history", "inactive", "records", "severity", "stored", "training", "trajectory"),
}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def children() -> set[str]:
    """Names of gradscope's modules and packages, as installed."""
    inside = {
        path.stem
        for path in (ROOT / "gradscope").iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").exists()
    }
    return inside | ON_TOP


def contract(pyproject: dict[str, Any], name: str) -> dict[str, Any]:
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    return next(contract for contract in contracts if contract["name"] == name)


def within_gradscope(modules: list[str]) -> set[str]:
    return {name.removeprefix("gradscope.") for name in modules if name.startswith("gradscope.")}


def test_every_folder_with_python_in_it_is_a_listed_package(pyproject: dict[str, Any]) -> None:
    folders = {
        path.parent.relative_to(ROOT)
        for top in ("gradscope", *ON_TOP)
        for path in (ROOT / top).rglob("*.py")
    }
    installed = {
        ".".join(folder.parts if folder.parts[0] == "gradscope" else ("gradscope", *folder.parts))
        for folder in folders
    }
    assert sorted(pyproject["tool"]["setuptools"]["packages"]) == sorted(installed)
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)


def test_what_stands_on_top_is_mapped_into_gradscope(pyproject: dict[str, Any]) -> None:
    expected = {"gradscope": "gradscope"} | {f"gradscope.{name}": name for name in ON_TOP}
    assert pyproject["tool"]["setuptools"]["package-dir"] == expected


def test_the_version_stands_in_one_file() -> None:
    assert version("torch-gradscope") == gradscope.__version__, "run make: the install is stale"
    sources = [path for top in ("gradscope", *ON_TOP) for path in (ROOT / top).rglob("*.py")]
    holding = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pyproject.toml", *sources)
        if gradscope.__version__ in path.read_text(encoding="utf-8")
    ]
    assert holding == ["gradscope/__init__.py"]


def test_the_import_contracts_know_every_module(pyproject: dict[str, Any]) -> None:
    core = contract(pyproject, "The core neither prints nor renders")
    assert within_gradscope(core["source_modules"]) == children() - ON_TOP

    reports = contract(pyproject, "Reports know plain records and errors")
    below = children() - ON_TOP - REPORTS_MAY_IMPORT
    assert within_gradscope(reports["forbidden_modules"]) == below


@pytest.mark.parametrize("name", ["Makefile", ".ci/run"])
def test_every_pip_install_is_constrained(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert all("-c constraints.txt" in line for line in lines if "pip install" in line)


def test_every_changelog_fragment_is_named_so_that_a_release_takes_it(
    pyproject: dict[str, Any],
) -> None:
    types = "|".join(kind["directory"] for kind in pyproject["tool"]["towncrier"]["type"])
    fragments = {path.name for path in (ROOT / "docs" / "changelog").iterdir()} - {"README.md"}
    assert [name for name in fragments if not re.fullmatch(rf"\+[\w-]+\.({types})\.md", name)] == []
