"""The measurement of repairs, on one subject that nearly anything cures."""

from __future__ import annotations

import math

import pytest

from gradscope.records import Status
from tests.zoo.repair import Repaired, chosen, print_table, repair_case
from tests.zoo.subjects import cases


def test_a_dead_network_is_repaired_and_does_not_mend_by_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = repair_case(cases()["mlp-biases-minus-5"], budget=9.0)
    assert found.status in (Status.FIXED, Status.IMPROVED)
    assert found.after < found.before
    assert found.repair
    assert found.goes_away is False
    assert found.random is not None
    print_table([found, Repaired("other", "GS101", None, "", math.nan, math.nan, "no data")])
    printed = capsys.readouterr().out
    assert f"{found.status.value:24}  50.0%" in printed
    assert "do nothing                 0.0% the findings are gone" in printed


def test_only_what_a_remedy_can_cure_is_counted() -> None:
    every = chosen("all", "*")
    assert set(every) == set(chosen("held-out", "*")) | set(chosen("calibration", "*"))
    assert not any(cases()[name].wants_author for name in every)
    assert all(cases()[name].cause for name in every)
