"""How numbers are said."""

from __future__ import annotations

import pytest

from gradscope.reports.wording import distinct


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
