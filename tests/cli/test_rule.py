"""``gradscope rule``: limits as they are in force here, and what hangs together with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradscope import registry
from gradscope.profile import DEFAULT_STEPS
from gradscope.rules import describe_limits


def said(run: Any) -> str:
    assert run.status == 0, run.err
    return " ".join(run.out.split())


@pytest.mark.parametrize("code", registry.rules())
def test_every_limit_has_its_value_unit_and_source(gradscope: Any, code: str) -> None:
    page = said(gradscope("rule", code))
    for name, value, unit, source in describe_limits(registry.rule(code).limits):
        assert name in page
        assert f"{value:g}" in page
        assert unit in page
        assert f"default: {source}" in page


@pytest.mark.parametrize("code", registry.rules())
def test_a_page_says_what_hangs_together(gradscope: Any, code: str) -> None:
    page = said(gradscope("rule", code))
    related = page[page.index("Causes, consequences, remedies") :]
    for other in (*registry.causes_of(code), *registry.consequences_of(code)):
        assert f"{other.code} {other.name}" in related
    for remedy in registry.treating(code):
        assert remedy.name in related
    steps = registry.rule(code).steps
    assert (f"--steps {steps}" in related) is (steps > DEFAULT_STEPS)
    assert "comes from gradscope" in related


def test_a_limit_that_was_set_says_so(gradscope: Any) -> None:
    Path("pyproject.toml").write_text("[tool.gradscope.rules.GS201]\nwarning = 0.125\n")
    page = said(gradscope("rule", "dead-relu"))
    default = registry.rule("GS201").limits.warning
    assert "0.125" in page
    assert f"pyproject.toml; default: {default:g} (" in page
    assert page.count("pyproject.toml; default") == 1
    assert "pyproject.toml; default" not in said(gradscope("rule", "GS202"))


def test_how_to_set_a_limit_works_as_printed(gradscope: Any) -> None:
    lines = gradscope("rule", "GS201").out.splitlines()
    start = next(index for index, line in enumerate(lines) if "[tool.gradscope" in line)
    Path("pyproject.toml").write_text("\n".join(line.strip() for line in lines[start : start + 2]))
    assert "pyproject.toml; default" in said(gradscope("rule", "GS201"))


def test_what_is_left_out_here_is_said(gradscope: Any) -> None:
    assert "Left out" not in said(gradscope("rule"))
    Path("pyproject.toml").write_text(
        '[tool.gradscope]\nignore = ["GS2"]\nignore-sites."a.*" = ["GS101"]\n'
    )
    out = ", ".join(code for code in registry.rules() if code.startswith("GS2"))
    assert f"Left out by pyproject.toml: {out}." in said(gradscope("rule"))
    assert "It does not run here" in said(gradscope("rule", "GS201"))
    page = said(gradscope("rule", "GS101"))
    assert "It does not look at a.*" in page
    assert "It does not run here" not in page


def test_the_table_comes_before_a_complaint_about_the_settings(gradscope: Any) -> None:
    """Who misspelled a rule there is told to look it up here."""
    Path("pyproject.toml").write_text('[tool.gradscope]\nignore = ["ded-relu"]\n')
    run = gradscope("rule")
    assert run.status == 2
    assert "dead-relu" in run.out
    assert "'ded-relu'" in run.err
