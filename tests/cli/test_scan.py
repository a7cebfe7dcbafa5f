"""``gradscope scan``: exit status, formats, and the options that choose what is examined."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gradscope.reports import read_json

COMMAND = Path(sys.executable).with_name("gradscope")


def codes(run: Any) -> list[str]:
    return [finding["code"] for finding in json.loads(run.out)["findings"]]


@pytest.mark.parametrize("name", ["healthy_mlp", "healthy_cnn"])
def test_the_healthy_examples_have_no_finding(gradscope: Any, examples: Path, name: str) -> None:
    run = gradscope("scan", examples / f"{name}.py", "--format", "json")
    assert (run.status, codes(run)) == (0, [])


def test_the_deep_sigmoid_example_has_both_findings(gradscope: Any, examples: Path) -> None:
    run = gradscope("scan", examples / "deep_sigmoid_mlp.py")
    assert run.status == 1
    assert run.out.index("GS204") < run.out.index("GS101")
    assert max(map(len, run.out.splitlines())) <= 80


def test_the_dying_example_has_dead_units_at_some_seed(gradscope: Any, examples: Path) -> None:
    run = gradscope("scan", examples / "dying_relu.py", "--format", "json", "--select", "GS201")
    assert (run.status, codes(run)) == (1, ["GS201"])


def test_json_on_stdout_is_pure_and_follows_the_schema(gradscope: Any, sick: Path) -> None:
    """In a process of its own, with stdout in a pipe."""
    run = subprocess.run([COMMAND, "scan", sick, "--format", "json"], capture_output=True)
    assert run.returncode == 1
    assert b"profiling" in run.stderr
    assert b"\x1b" not in run.stdout
    schema = json.loads(gradscope("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(run.stdout))


def test_what_a_subject_prints_does_not_get_into_the_report(
    gradscope: Any, write: Callable[..., Path]
) -> None:
    noisy = write("noisy.py", 'print("building") or nn.Sequential(nn.Linear(4, 3))')
    noisy.write_text('print("importing")\n' + noisy.read_text())
    run = gradscope("scan", noisy, "--format", "json")
    assert run.out.startswith("{")
    assert run.status == 0


def test_severity_decides_the_status(gradscope: Any, sick: Path) -> None:
    assert gradscope("scan", sick).status == 1
    assert gradscope("scan", sick, "--fail-on", "error").status == 1
    assert gradscope("scan", sick, "--fail-on", "never").status == 0
    assert gradscope("scan", sick, "--fail-on", "sometimes").status == 2


def test_a_warning_is_no_error(gradscope: Any, write: Callable[..., Path]) -> None:
    model = (
        "nn.Sequential(*[m for i in range(6) for m in"
        " (nn.Linear(8 if i else 4, 8), nn.Sigmoid())], nn.Linear(8, 3))"
    )
    target = write("warned.py", model)
    run = gradscope("scan", target, "--format", "json", "--select", "GS101")
    (finding,) = json.loads(run.out)["findings"]
    assert finding["severity"] == "warning"
    assert run.status == 1
    assert gradscope("scan", target, "--select", "GS101", "--fail-on", "error").status == 0


def test_rules_are_selected_and_ignored(gradscope: Any, sick: Path) -> None:
    def found(*arguments: str) -> list[str]:
        return codes(gradscope("scan", sick, "--format", "json", *arguments))

    everything = found()
    assert {"GS101", "GS204"} <= set(everything)
    assert found("--select", "GS101") == ["GS101"]
    assert found("--select", "gs2, vanishing-gradient") == everything
    assert found("--ignore", "GS2") == ["GS101"]
    assert found("--select", "GS1", "--ignore", "GS101") == []


@pytest.mark.parametrize("empty", ["", ",", " "])
def test_a_selection_of_nothing_is_no_clean_bill(gradscope: Any, sick: Path, empty: str) -> None:
    """A script whose variable is empty would pass every model."""
    assert gradscope("scan", sick, "--select", empty).status == 2


def test_the_seed_decides_the_weights(gradscope: Any, healthy: Path) -> None:
    def profile(seed: int) -> Any:
        run = gradscope("scan", healthy, "--format", "json", "--seed", str(seed))
        return json.loads(run.out)["profile"]

    assert profile(1) == profile(1)
    assert profile(1)["losses"] != profile(2)["losses"]
    assert profile(2)["seed"] == 2


def test_steps_are_counted(gradscope: Any, healthy: Path) -> None:
    run = gradscope("scan", healthy, "--format", "json", "--steps", "3")
    assert len(json.loads(run.out)["profile"]["losses"]) == 3


# --- What is examined -------------------------------------------------------------------------


def test_a_factory_of_another_name(gradscope: Any, healthy: Path) -> None:
    healthy.write_text(healthy.read_text().replace("build_model", "make"))
    assert gradscope("scan", healthy).status == 3
    assert gradscope("scan", f"{healthy}:make").status == 0


def test_a_module_is_found_beside_the_working_directory(
    gradscope: Any, healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(healthy.parent)
    healthy.rename(healthy.with_name("healthy_as_module.py"))
    assert gradscope("scan", "healthy_as_module").status == 0


def test_data_and_loss_from_elsewhere(gradscope: Any, healthy: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.py"
    bare.write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 3)\n")
    healthy.write_text(healthy.read_text().replace("def loss", "def cost"))
    run = gradscope(
        "scan", f"{bare}:make", "--data", healthy, "--loss", f"{healthy}:cost", "--format", "json"
    )
    assert run.status == 0
    assert json.loads(run.out)["profile"]["source"] == "measured"


def test_another_model_on_the_targets_data(gradscope: Any, healthy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 3)\n")
    run = gradscope("scan", healthy, "--model", f"{other}:make", "--format", "json")
    assert run.status == 0
    assert json.loads(run.out)["target"]["parameters"] == 15


def test_a_missing_target_is_told_although_a_model_is_given(gradscope: Any, healthy: Path) -> None:
    run = gradscope("scan", "missing.py", "--model", healthy)
    assert run.status == 3
    assert "missing.py" in run.said


def test_a_loss_is_asked_for_where_there_is_none(
    gradscope: Any, healthy: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.py"
    bare.write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 3)\n")
    run = gradscope("scan", f"{bare}:make", "--data", healthy)
    assert run.status == 3
    assert "--loss" in run.said
    assert "failed on a batch" not in run.said, "the model did not fail"


def test_random_inputs_are_marked(gradscope: Any, sick: Path) -> None:
    run = gradscope("scan", sick, "--input-shape", "4", "--format", "json")
    report = json.loads(run.out)
    assert report["profile"]["source"] == "synthetic"
    assert report["findings"]
    for finding in report["findings"]:
        assert {measure["source"] for measure in finding["evidence"].values()} == {"synthetic"}


def test_the_cpu_is_a_device(gradscope: Any, healthy: Path) -> None:
    assert gradscope("scan", healthy, "--device", "cpu").status == 0


# --- Where it is written ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json", "html"])
def test_a_file_takes_the_place_of_stdout(gradscope: Any, sick: Path, form: str) -> None:
    run = gradscope("scan", sick, "--format", form, "--output", f"report.{form}")
    assert (run.status, run.out) == (1, "")
    text = Path(f"report.{form}").read_text()
    assert "GS204" in text
    if form == "json":
        assert read_json(text, "report.json").findings[0].code == "GS204"
    if form == "html":
        assert text.lstrip().lower().startswith("<!doctype html>")


def test_html_goes_to_stdout(gradscope: Any, sick: Path) -> None:
    run = gradscope("scan", sick, "--format", "html")
    assert run.out.lstrip().lower().startswith("<!doctype html>")
    assert run.out.rstrip().endswith("</html>")
