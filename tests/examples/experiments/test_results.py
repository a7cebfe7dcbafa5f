"""Runs are kept as they were, and tables show what they hold."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from gradscope.examples.experiments.command_line import command, natural, positive
from gradscope.examples.experiments.results import Run, Table, read_run, standard_error, write_run


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run = Run("python x.py", {"runs": 3}, [{"name": "ü", "losses": [0.5, 1e-9]}, {"name": "rows"}])
    write_run(path, run)
    assert read_run(path) == run
    assert len(path.read_text(encoding="utf-8").splitlines()) == 15, "an entry a line"


def test_what_is_no_number_is_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_run(path, Run("python x.py", {"rate": math.nan}, [{"losses": [math.inf, 0.5]}]))
    kept = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert kept["results"] == [{"losses": [None, 0.5]}]
    again = read_run(path)
    assert math.isnan(again.results[0]["losses"][0])
    assert math.isnan(again.settings["rate"])


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": 99}', "nonsense"])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"holds no run of an experiment|Expecting value"):
        read_run(path)


def test_a_table_says_the_same_on_the_terminal_and_in_markdown() -> None:
    table = Table("[b]T[/b]", ("name", "x|y"), [("[red]a", "1"), ("b", "2")], "a note")
    assert table.markdown() == (
        "| name | x\\|y |\n| --- | ---: |\n| [red]a | 1 |\n| b | 2 |\n\na note\n"
    )
    console = Console(width=80, record=True)
    console.print(table.printed())
    shown = console.export_text()
    for text in ("[b]T[/b]", "x|y", "[red]a", "a note"):
        assert text in shown


def test_the_standard_error_of_what_has_none() -> None:
    assert standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(standard_error([1.0]))
    assert math.isnan(standard_error([1.0, math.inf]))


def test_a_command_has_the_options_that_are_not_the_default() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=positive, default=100)
    parser.add_argument("--images", type=natural)
    parser.add_argument("--k", type=float, nargs="+", default=(1.0, 2.0))
    parser.add_argument("--figures", type=lambda text: text.split(","), default="7,8")
    parser.add_argument("--lr-sgd", type=float, default=0.1)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(["--json", "x.json"])
    assert command("x.py", parser, arguments) == "python x.py"
    given = "--runs 3 --images 0 --k 2.0 3.0 --figures 8,9 --lr-sgd 0.2 --full --data FOLDER"
    words = given.replace("FOLDER", "/home/somebody").split()
    assert command("x.py", parser, parser.parse_args(words)) == f"python x.py {given}"
