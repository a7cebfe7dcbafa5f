"""Names in little room: measured in cells, and told apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from gradscope.reports.console.fitting import fitted, told_apart

PARTS = st.sampled_from(
    ["layers", "0", "1", "17", "attention", "编码器", "e\u0301", "🚀", "norm", "x" * 40]
)
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=8).map(".".join), max_size=12)


@settings(max_examples=40)
@given(NAMES, st.integers(8, 60))
def test_different_names_look_different_and_fit(names: list[str], width: int) -> None:
    shown = told_apart(names, width)
    assert [cell_len(each) <= width for each in shown] == [True] * len(names)
    assert len(dict(zip(shown, names, strict=True))) == len(set(names))


@settings(max_examples=40)
@given(st.text(max_size=60), st.integers(1, 30))
def test_a_name_fits(name: str, width: int) -> None:
    assert cell_len(fitted(name, width)) <= width


def test_what_siblings_have_in_common_goes() -> None:
    names = [f"encoder.layers.{layer}.feed_forward.activation" for layer in (7, 17)]
    assert told_apart(names, 28) == ["encoder.laye…7…d.activation", "encoder.laye…17…d.activation"]
    assert told_apart(["a.b", "c.d"], 3) == ["a.b", "c.d"]


def test_names_that_differ_in_two_places_stay_apart() -> None:
    names = [f"layers.{i}.middle.of.block.{j}.activation" for i in range(3) for j in range(12)]
    assert len(set(told_apart(names, 20))) == 36


def test_an_accent_stays_with_its_letter() -> None:
    assert fitted("e\u0301" * 9, 4) == "e\u0301…e\u0301e\u0301"


@pytest.mark.parametrize("width", [0, 1, 2])
def test_there_may_be_no_room(width: int) -> None:
    assert all(
        cell_len(each) <= max(1, width) for each in told_apart(["layer.1", "layer.2"], width)
    )
