"""``gradscope report``: run stores and saved reports, in every format, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gradscope.reports import load_report, schema
from gradscope.severity import Severity
from gradscope.store.report import run_report
from tests.cli.recorded import DYING, Training, recorded


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gone = replace(
        DYING, code="GS104", name="gradient-spike", severity=Severity.WARNING, step=50, closed=90
    )
    return recorded(tmp_path_factory.mktemp("runs") / "run.gradscope", alerts=(gone, DYING))


def test_a_run_is_told_in_words(gradscope: Any, store: Path) -> None:
    run = gradscope("report", store)
    assert (run.status, run.err) == (0, "")
    assert max(map(len, run.out.splitlines())) <= 80
    words = " ".join(run.out.split())
    assert "training run, 5,320 parameters" in words
    assert "✗ 1 error This training went wrong: vanishing gradient." in words
    assert "Recorded 1,000 steps of training at 8 sites; it ran to its end." in words
    assert "✗ GS101 vanishing-gradient 400 now 1" in words
    assert "▲ GS104 gradient-spike 50 90 1" in words
    assert "Made by python train.py" in words


def test_its_json_holds_the_run_and_fits_the_schema(gradscope: Any, store: Path) -> None:
    written = json.loads(gradscope("report", store, "--format", "json").out)
    jsonschema.validate(written, schema())
    assert written["target"] == {"name": str(store), "kind": "training run", "parameters": 5_320}
    (finding,) = written["findings"]
    assert (finding["code"], finding["since"]) == ("GS101", 400)
    assert finding["evidence"]["attenuation"]["value"] == 1e-8
    assert finding["evidence"]["attenuation"]["limit"] == 1e-5
    assert finding["remedies"] == ["skip-connection"]
    training = written["profile"]["training"]
    assert (training["model"], training["last_step"], training["ended"]) == ("Net", 999, "")
    assert training["sampled"][:2] == [9, 19]
    assert len(training["sampled"]) == 100
    assert len(training["loss"]) == 400
    first = training["sites"][1]
    assert (first["name"], first["saturated"]) == ("0.relu", [])
    assert first["backward_rms"][-1] == pytest.approx(0.1 * 10 ** (-7 * 0.999 * 6 / 7), rel=1e-3)
    assert [each["name"] for each in training["parameters"]] == [
        f"{layer}.linear.weight" for layer in range(4)
    ]
    assert training["parameters"][0]["update_ratio"][0] == 1e-3
    assert training["events"] == [
        {"step": 500, "kind": "epoch", "data": {"loss": 0.5, "shares": "[1, 2]"}}
    ]
    # The newest samples are a profile like any other.
    assert len(written["profile"]["losses"]) == 8
    assert written["profile"]["sites"][1]["dead"] == pytest.approx(0.8 * 0.999 * 6 / 7)
    assert written["profile"]["parameters"][0]["gradient_norm"] == pytest.approx([0.1] * 8)


def test_a_saved_report_shows_the_same(gradscope: Any, store: Path, tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    assert gradscope("report", store, "--format", "json", "--output", saved).status == 0
    # repr: what was not measured is NaN, which equals nothing.
    assert repr(load_report(saved)) == repr(run_report(store))
    assert gradscope("report", saved).out == gradscope("report", store).out


def test_a_run_that_goes_on_or_was_killed_is_told(gradscope: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.gradscope"
    training = Training(path)
    training.train(100)
    assert "it had not ended when this was read" in " ".join(gradscope("report", path).out.split())
    training.close(ended="KeyboardInterrupt")
    assert "broken off by KeyboardInterrupt" in " ".join(gradscope("report", path).out.split())


def test_what_was_not_recorded_is_skipped(tmp_path: Path) -> None:
    training = Training(tmp_path / "run.gradscope")
    training.train(20)
    training.writer.sample(25, training._row(1.0, 0.0)[:3])
    training.writer.event(12, "skipped", {})
    training.close()
    report = run_report(tmp_path / "run.gradscope")
    assert [(each.what, each.reason) for each in report.skipped] == [
        ("records", "1 were dropped, because the disk was slower than training"),
        ("updates", "the optimizer skipped 1, whose gradient overflowed"),
    ]


def test_a_spike_stays_visible_in_a_long_run(tmp_path: Path) -> None:
    training = Training(tmp_path / "run.gradscope", layers=1, end=5000)
    training.train(1234)
    row = training._row(1.0, 0.0)
    row[:2] = (50.0, 700.0)
    training.writer.losses(1234, row[:1])
    training.writer.sample(1234, row)
    training.step += 1
    training.train(3765)
    training.close()
    profile = run_report(tmp_path / "run.gradscope").profile
    assert profile is not None
    assert profile.training is not None
    history = profile.training
    assert len(history.sampled) == 200
    assert len(history.loss) <= 400
    assert (max(history.loss_peak), max(history.loss)) == (50.0, pytest.approx(5, abs=3))
    assert max(history.gradient_norm_peak) == 700.0 > max(history.gradient_norm)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"SQLite format 3\x00" + b"\xff" * 200, "is not a text file"),
        (b"{}", "has no schema_version"),
    ],
)
def test_what_is_neither_exits_3(
    gradscope: Any, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "run.gradscope"
    if content is not None:
        path.write_bytes(content)
    run = gradscope("report", path, "--output", tmp_path / "out.txt")
    assert (run.status, run.out) == (3, "")
    assert said in run.err
    assert "Traceback" not in run.err
    assert not (tmp_path / "out.txt").exists()


def test_two_runs_side_by_side(gradscope: Any, store: Path, tmp_path: Path) -> None:
    healthy = recorded(tmp_path / "healthy.gradscope", 100, alerts=())
    worse = gradscope("compare", healthy, store)
    assert worse.status == 1
    words = " ".join(worse.out.split())
    assert "✗ new GS101 vanishing-gradient" in words
    assert "steps 100 measured 1,000 measured" in words
    assert "loss at the end 0.118 0.115" in words
    assert gradscope("compare", store, healthy).status == 0


@pytest.mark.parametrize(
    ("command", "options", "shown"),
    [
        ("report", (), "Over training"),
        ("report", ("--format", "json"), '"backward_rms"'),
        ("report", ("--format", "html"), "<figcaption>Backward signal by layer"),
        ("watch", ("--once",), "layers  4"),
    ],
)
def test_none_of_it_needs_torch(
    store: Path, command: str, options: tuple[str, ...], shown: str
) -> None:
    check = (
        "import sys\n"
        "from gradscope.cli import main\n"
        f"sys.argv = ['gradscope', *{[command, str(store), *options]!r}]\n"
        "try:\n    main()\n"
        "finally:\n    assert 'torch' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert shown in run.stdout
