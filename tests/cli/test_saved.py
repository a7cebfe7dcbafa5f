"""What the first version of gradscope saved is shown and compared by the commands of this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from gradscope.records import SCHEMA_VERSION

SAVED = Path(__file__).parents[1] / "reports" / "saved"
SCAN, FIX = SAVED / "spine-scan.json", SAVED / "spine-fix.json"


def test_it_is_shown_and_written_again_as_of_this_version(gradscope: Any) -> None:
    shown = gradscope("report", FIX)
    assert shown.status == 0, shown.err
    assert "fixed" in shown.out
    assert "norm-insertion" in shown.out
    again = gradscope("report", FIX, "--format", "json")
    raw = json.loads(again.out)
    assert raw["schema_version"] == SCHEMA_VERSION
    jsonschema.Draft202012Validator(json.loads(gradscope("schema").out)).validate(raw)


def test_it_is_compared_and_the_comparison_follows_its_schema(gradscope: Any) -> None:
    compared = gradscope("compare", SCAN, FIX)
    assert compared.status == 0, compared.err
    assert "GS204" in compared.out
    raw = json.loads(gradscope("compare", SCAN, FIX, "--format", "json").out)
    schema = json.loads(gradscope("schema", "comparison").out)
    jsonschema.Draft202012Validator(schema).validate(raw)


def test_markdown_in_a_file_has_its_pictures_beside_it(gradscope: Any, tmp_path: Path) -> None:
    written = gradscope("report", FIX, "--format", "markdown", "--output", "shown.md")
    assert (written.status, written.out) == (0, ""), written.err
    text = (tmp_path / "shown.md").read_text(encoding="utf-8")
    pictures = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert "shown-1.svg" in pictures
    for picture in pictures:
        assert f"]({picture})" in text
        assert (tmp_path / picture).read_text(encoding="utf-8").startswith("<svg ")
    # A comment can hold none: there the same is told in characters.
    printed = gradscope("report", FIX, "--format", "markdown")
    assert ".svg" not in printed.out
    assert "█" in printed.out


def test_every_kind_has_a_schema_and_another_is_refused(gradscope: Any) -> None:
    titles = [
        json.loads(gradscope("schema", kind).out)["title"]
        for kind in ("report", "plan", "comparison")
    ]
    assert titles == ["gradscope report", "gradscope plan", "gradscope comparison"]
    refused = gradscope("schema", "verdict")
    assert refused.status == 2
    assert "comparison" in refused.err
