from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.zoo.subjects import cases
from tests.zoo.subjects.split import CALIBRATION, SCORE

BALANCED = 0.4
"""The share of the cases that either half has at least."""


def test_every_architecture_is_on_one_side() -> None:
    assert not CALIBRATION & SCORE
    assert {case.architecture for case in cases().values()} == CALIBRATION | SCORE


@pytest.mark.parametrize("healthy", [True, False])
def test_the_halves_are_balanced(healthy: bool) -> None:
    sides = Counter(
        case.architecture in SCORE for case in cases().values() if case.healthy == healthy
    )

    assert min(sides.values()) >= BALANCED * sides.total()


def test_labels_are_complete() -> None:
    for case in cases().values():
        assert case.healthy == (not case.mistake) == (not case.must)
        assert case.healthy or case.cause in case.must
        assert not case.must & case.may
        assert all(re.fullmatch("GS[1-7]0[1-6]", code) for code in case.must | case.may)
