"""The public names: sorted, all there, and functions where a module has the same name."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import gradscope


def test_the_public_names_are_sorted_and_unique() -> None:
    assert gradscope.__all__ == sorted(set(gradscope.__all__))
    assert set(gradscope._HOMES) == set(gradscope.__all__)
    assert dir(gradscope) == gradscope.__all__


@pytest.mark.parametrize("name", gradscope.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(gradscope, name)
    assert callable(value)
    assert not isinstance(value, types.ModuleType)
    assert value.__doc__, "a public name without documentation"


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'gradscope' has no attribute 'prescibe'"):
        gradscope.prescibe  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    "first",
    [
        "from gradscope.profile import profile_steps",
        "import gradscope.profile",
        "from gradscope.verify import DEFAULT_BUDGET",
        "from gradscope.diagnose import diagnose",
        "from gradscope import prescribe",
        "import gradscope.pipeline, gradscope.cli",
    ],
)
def test_functions_are_functions_whatever_was_imported_before(first: str) -> None:
    check = (
        f"import gradscope\n{first}\nimport gradscope, types\n"
        "names = ('profile', 'diagnose', 'prescribe', 'verify', 'apply', 'scan', 'fix')\n"
        "found = [type(getattr(gradscope, name)).__name__ for name in names]\n"
        "assert found == ['function'] * len(names), found\n"
        "from gradscope import profile\nassert isinstance(profile, types.FunctionType)\n"
        "from gradscope.profile import DEFAULT_STEPS\nassert DEFAULT_STEPS == 8\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", check], capture_output=True, text=True
    )
    assert run.stderr == ""
    assert run.returncode == 0


def test_importing_gradscope_imports_no_torch() -> None:
    check = (
        "import sys, gradscope, gradscope.records, gradscope.errors, gradscope.cli\n"
        "heavy = {'torch', 'scipy', 'pydantic', 'altair', 'jinja2', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert run.stderr == ""
