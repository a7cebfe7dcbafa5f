"""Which optimizer's step ends a round."""

from __future__ import annotations

import pytest

from gradscope.running.rounds import Rounds


@pytest.mark.parametrize(
    ("optimizers", "steps", "ends"),
    [
        ("a", "aaa", "111"),
        ("dg", "dgdgdg", "010101"),
        ("dg", "dddgdddg", "00010001"),
        # One that waits for a later phase, and comes.
        ("ab", "aaaaabbb", "00111001"),
        ("ab", "aaaabbbbbb", "0011001111"),
        # One that comes seldom.
        ("ab", "abaaaaba", "01001101"),
    ],
)
def test_a_round_ends_when_all_that_take_part_have_stepped(
    optimizers: str, steps: str, ends: str
) -> None:
    rounds = Rounds([ord(each) for each in optimizers], patience=3 if "a" in steps else 10)
    assert "".join(str(int(rounds.stepped(ord(step)))) for step in steps) == ends
