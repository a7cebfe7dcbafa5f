from __future__ import annotations

import pytest
from _pytest.capture import CaptureFixture

from tests.zoo.score_training import judged_codes, print_score, watch


def test_rules_that_judge_a_training_are_those_of_decision_30() -> None:
    assert judged_codes() == {
        *("GS101", "GS102", "GS103", "GS104", "GS201", "GS202", "GS206"),
        *("GS301", "GS304", "GS401", "GS501", "GS503"),
    }


@pytest.mark.parametrize("name", ["labels", "regression-mlp"])
def test_healthy_subjects_train_without_an_alert(name: str) -> None:
    seen = watch(name, steps=240)

    assert seen.alerts == ()


@pytest.mark.parametrize(
    "name",
    ["tanh-weights-times-fan", "constant-feature-standardised", "convolutions-killed-by-adam"],
)
def test_faulty_subjects_are_found_out(name: str) -> None:
    seen = watch(name, steps=200)

    assert seen.labelled
    assert seen.missed == frozenset()
    assert seen.changes <= 2 * len(seen.alerts)


def test_the_score_names_what_is_missed(capsys: CaptureFixture[str]) -> None:
    print_score([watch("regression-oscillates", steps=60), watch("linear", steps=40)])

    printed = capsys.readouterr().out
    assert "1 healthy subjects, 0 false alarms" in printed
    assert "miss: regression-oscillates: GS301 not found, but nothing" in printed
