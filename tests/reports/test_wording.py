"""How numbers are said."""

from __future__ import annotations

import pytest

from gradscope.reports.wording import distinct, listed, number, probability, sentence


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (0.1, 0.814, ("0.1", "0.814")),
        (1.3862, 1.3868, ("1.386", "1.387")),
        (1.38621, 1.38622, ("1.38621", "1.38622")),
        (None, 0.5, ("–", "0.5")),
        (1.0, 1.0 + 1e-9, ("1", "1.000000001")),
        (2.5, 2.5, ("2.5", "2.5")),
        (float("nan"), float("nan"), ("NaN", "NaN")),
    ],
)
def test_two_numbers_that_differ_are_told_apart(
    one: float | None, other: float, said: tuple[str, str]
) -> None:
    assert distinct(one, other) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (3, "3"),
        (200_842, "200,842"),
        (0.8144, "0.814"),
        (1234.5, "1,230"),
        (0.00034812, "3.48e-4"),
        (1e5, "1e5"),
        (99_999.0, "1e5"),
        (float("-inf"), "-∞"),
    ],
)
def test_a_number_has_three_digits(value: float | None, said: str) -> None:
    assert number(value) == said


def test_a_p_value_has_no_more_digits_than_it_deserves() -> None:
    assert probability(1e-12) == "< 1e-6"
    assert probability(0.0412) == "0.0412"


def test_words_are_listed_and_sentences_end() -> None:
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert sentence("the loss fell") == "The loss fell."
    assert sentence("0.relu is dead.") == "0.relu is dead."
