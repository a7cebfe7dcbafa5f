from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradscope import registry
from tests.zoo.subjects import cases
from tests.zoo.subjects.split import CALIBRATION, HELD_OUT

BALANCED = 0.4
"""The share of the cases that either half has at least."""


def judged() -> Iterator[str]:
    """Names of the cases that tests of this folder are passed one by one."""
    for kind in ("healthy", "faulty"):
        for path in Path(__file__).parent.glob(f"test_{kind}_*.py"):
            for test in vars(importlib.import_module(f"tests.zoo.{path.stem}")).values():
                for mark in getattr(test, "pytestmark", ()):
                    if mark.name == "parametrize":
                        yield from (case.name for case in mark.args[1])


def test_every_architecture_is_on_one_side() -> None:
    assert not CALIBRATION & HELD_OUT
    assert {case.architecture for case in cases().values()} == CALIBRATION | HELD_OUT


@pytest.mark.parametrize("healthy", [True, False])
def test_the_halves_are_balanced(healthy: bool) -> None:
    sides = Counter(
        case.architecture in HELD_OUT for case in cases().values() if case.healthy == healthy
    )

    assert min(sides.values()) >= BALANCED * sides.total()


def test_every_file_of_subjects_is_judged_by_one_test() -> None:
    calibration = [case.name for case in cases().values() if case.architecture in CALIBRATION]

    assert Counter(judged()) == Counter(calibration)


def test_labels_are_complete() -> None:
    for case in cases().values():
        assert case.healthy == (not case.mistake) == (not case.must)
        assert case.healthy or case.cause in case.must
        assert not case.must & case.may
        assert case.true <= set(registry.rules()), case.name
