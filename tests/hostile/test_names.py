"""Names that would steer a terminal or a page are shown, and do nothing."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gradscope.cli import main
from gradscope.pipeline import scan_checkpoint
from gradscope.records import Report
from gradscope.reports import render_html, render_json, render_terminal, view
from gradscope.reports.wording import visible
from tests.hostile.names import NAMES

STRANGE = ("Cc", "Cf", "Cs", "Zl", "Zp")
SHORT = {wrong: name for wrong, name in NAMES.items() if len(name) < 5000 and name.strip()}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of layers with odd names, each of which has a fault, an optimizer and a shape of its own."""
    path = tmp_path_factory.mktemp("named") / "\x1b[31mfile\u202e.pt"
    encodable = {wrong: name for wrong, name in SHORT.items() if wrong != "half a character"}
    weights = {name: torch.ones(4 + at, 3) for at, name in enumerate(encodable.values())}
    parameters = [torch.nn.Parameter(weight) for weight in weights.values()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for at, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 10.0 ** (at - len(parameters)))
    optimizer.step()
    beside = {
        "<b>\x1b[2J": {"state": {0: {"\x1b[1m": torch.ones(2)}}, "param_groups": [{"params": [0]}]}
    }
    torch.save({"net": weights, "optimizer": optimizer.state_dict(), **beside}, path)
    return scan_checkpoint(path)


def test_the_report_is_about_them(report: Report) -> None:
    # Otherwise what follows would prove little.
    assert {"GS101", "GS302"} <= {each.code for each in report.findings}
    assert any("\x1b[31mred" in site for each in report.findings for site in each.sites)
    assert any("\x1b[2J" in each.what for each in report.skipped)
    assert "\x1b" in report.target.name


@pytest.mark.parametrize("width", [40, 120])
def test_a_terminal_gets_no_character_that_steers_it(report: Report, width: int) -> None:
    out = io.StringIO()
    render_terminal(view(report), Console(file=out, width=width, color_system=None))
    text = out.getvalue()
    strange = {c for c in text if c != "\n" and unicodedata.category(c) in STRANGE}
    assert not strange
    assert width < 100 or "<script>" in text
    assert width < 100 or "[bold red]x[/bold red]" in text


class Tags(HTMLParser):
    """Collects the tags of a page, and the texts outside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.data: list[str] = []
        self.inside = ""
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = "data" if ("type", "application/json") in attrs else tag
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        kinds = {"script": self.scripts, "data": self.data}
        kinds.get(self.inside, self.texts).append(data)


def test_a_page_shows_them_as_text(report: Report) -> None:
    page = render_html(report)
    strange = {c for c in page if c not in "\n\t" and unicodedata.category(c) in STRANGE}
    assert not strange
    tags = Tags()
    tags.feed(page)
    assert not any("alert(1)" in script for script in tags.scripts)
    assert tags.data
    assert not any("<" in data for data in tags.data)
    assert any("<script>alert(1)</script>" in text for text in tags.texts)
    assert any("{{ 7 * 7 }}" in text for text in tags.texts)


def test_json_says_them_as_they_are(report: Report) -> None:
    text = render_json(report)
    assert visible(text.replace("\n", " ")) == text.replace("\n", " ")
    names = {each["name"] for each in json.loads(text)["profile"]["stored"]["weights"]}
    assert "\x1b[31mred\x1b[0m.weight" in names
    assert "<script>alert(1)</script>.weight" in names


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202egpj", "a\x9b31m"])
@pytest.mark.parametrize("what", ["missing", "text", "folder", "part", "index"])
def test_the_command_line_says_names_of_files_plainly(
    tmp_path: Path,
    name: str,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / f"{name}.pt"
    if what == "text":
        path.write_text("text")
    elif what == "folder":
        path.mkdir()
        for each in ("a.pt", "b.pt"):
            torch.save({"w.weight": torch.ones(2)}, path / (name + each))
    elif what == "part":
        path.mkdir()
        (path / "config.json").write_text("{}")
        torch.save({f"{name}.weight": torch.ones(2)}, path / "x.bin")
        index = {"weight_map": {f"{name}.weight": f"{name}.bin"}}
        (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    elif what == "index":
        path.mkdir()
        (path / "config.json").write_text("{}")
        torch.save({"other": torch.ones(2)}, path / f"{name}.bin")
        index = {"weight_map": {f"{name}.weight": f"{name}.bin"}}
        (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    monkeypatch.setattr(sys, "argv", ["gradscope", "scan", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capfd.readouterr()
    if what == "folder":  # a run of two checkpoints, of which a report tells
        assert ended.value.code == 0
        assert "x1b[31mred" in printed.out or "\x1b" not in name
    else:
        assert ended.value.code in (2, 3)
        assert printed.err.startswith("gradscope: ")
        assert printed.err.count("\n") == 1
    both = printed.out + printed.err
    assert not {c for c in both if c != "\n" and unicodedata.category(c) in STRANGE}
