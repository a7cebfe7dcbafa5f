from __future__ import annotations

import math

import pytest

from tests.zoo.examining import Examined, examine_all
from tests.zoo.judging import LEARNED
from tests.zoo.score import Score, chosen, print_faults, score
from tests.zoo.subjects import cases

LEAST = 0.95
MOST_FALSE_ALARMS = 0.02
CAUSES_FIRST = 0.9

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen() -> list[Examined]:
    return list(examine_all(chosen("held-out"), jobs=2))


@pytest.fixture(scope="module")
def result(seen: list[Examined]) -> Score:
    result = score(seen)
    print_faults(result)
    return result


def test_faults_are_found(result: Score) -> None:
    recall = result.recall

    assert recall >= LEAST


def test_findings_are_true(result: Score) -> None:
    precision = result.precision

    assert precision >= LEAST


def test_healthy_subjects_are_left_alone(result: Score) -> None:
    false_alarms = result.false_alarms

    assert false_alarms <= MOST_FALSE_ALARMS


def test_the_first_finding_is_the_cause(result: Score) -> None:
    causes_first = result.causes_first

    assert causes_first >= CAUSES_FIRST


def test_healthy_subjects_learn(seen: list[Examined]) -> None:
    idle = [
        entry.name
        for entry in seen
        if cases()[entry.name].healthy
        and not math.isnan(entry.after)
        and not entry.after < LEARNED * entry.before
    ]

    assert idle == []
