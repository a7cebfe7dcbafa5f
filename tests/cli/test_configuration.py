"""``[tool.gradscope]`` of the working directory decides; flags decide over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def configure(text: str, folder: str | Path = ".") -> Path:
    path = Path(folder, "pyproject.toml")
    path.write_text(f"[tool.gradscope]\n{text}\n")
    return path.resolve()


def found(gradscope: Any, target: Path, *flags: str) -> list[str]:
    run = gradscope("scan", target, "--format", "json", *flags)
    assert run.status in (0, 1), run.err
    return [finding["code"] for finding in json.loads(run.out)["findings"]]


def test_the_file_selects_and_flags_go_over_it(gradscope: Any, sick: Path) -> None:
    configure('select = ["GS101", "GS204"]')
    assert found(gradscope, sick) == ["GS204", "GS101"]
    assert found(gradscope, sick, "--ignore", "GS204") == ["GS101"]
    configure('select = ["GS101", "GS204"]\nignore = ["forward-collapse"]')
    assert found(gradscope, sick) == ["GS101"]
    assert found(gradscope, sick, "--ignore", "GS101") == []
    assert found(gradscope, sick, "--select", "GS204") == ["GS204"]


def test_limits_decide_what_is_found(gradscope: Any, sick: Path) -> None:
    configure('select = ["GS101"]\nrules.vanishing-gradient.warning = 1e-30')
    run = gradscope("scan", sick)
    assert run.status == 0
    assert "settings pyproject.toml" in " ".join(run.out.split())
    configure('select = ["GS101"]\nrules.GS101.error = 0.1')
    report = json.loads(gradscope("scan", sick, "--format", "json").out)
    (finding,) = report["findings"]
    assert finding["severity"] == "error"
    assert 0.1 in [measure["limit"] for measure in finding["evidence"].values()]
    assert report["environment"]["settings"] == "pyproject.toml", "no path of this machine"


def test_sites_are_ignored_for_a_rule(gradscope: Any, sick: Path) -> None:
    configure('select = ["GS101"]\nignore-sites."*" = ["GS101"]')
    run = gradscope("scan", sick)
    assert run.status == 0
    assert "GS101 at *" in run.out


def test_the_file_of_a_parent_folder_counts(
    gradscope: Any, sick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure('ignore = ["GS"]', tmp_path)
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert found(gradscope, sick) == []


@pytest.mark.parametrize("command", ["scan", "fix", "rule"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("selct = 1", "tool.gradscope has no key 'selct'; the nearest is 'select'"),
        ('select = ["GS9"]', "tool.gradscope.select is wrong: there is no rule 'GS9'"),
        ("rules.ded-relu.error = 1", "the nearest is GS201 dead-relu"),
        ("rules.dead-relu.errr = 1", "has no limit 'errr'; the nearest is 'error'"),
        ("rules.dead-relu.error = nan", "rules.dead-relu.error is nan"),
        ("rules.dead-relu.error =", "is not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_meant(
    gradscope: Any, sick: Path, command: str, text: str, said: str
) -> None:
    path = configure(text)
    arguments = {"scan": [sick], "fix": [sick, "--out", "results"], "rule": ["GS201"]}[command]
    run = gradscope(command, *arguments)
    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"gradscope: {path}")
    assert said in run.err
    assert len(run.err.splitlines()) == 1
    assert not Path("results").exists()


def test_fix_reads_the_file(gradscope: Any, sick: Path) -> None:
    configure('select = ["GS101"]\nrules.GS101.warning = 1e-30')
    run = gradscope("fix", sick, "--out", "results")
    assert run.status == 0
    assert json.loads(Path("results/report.json").read_text())["findings"] == []
