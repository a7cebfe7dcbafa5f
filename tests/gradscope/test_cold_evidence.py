"""What docs/experiments/cold-evidence.json promises, and that it is still so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradscope.examples.experiments.results import read_run
from tests.benchmarks.bench_cold import SEED, one, tables
from tests.benchmarks.cold_cases import DECLARED
from tests.benchmarks.cold_hard import HARD
from tests.benchmarks.cold_held_out import KINDS, held_out
from tests.benchmarks.cold_tables import is_healthy

KEPT = read_run(Path(__file__).parents[2] / "docs/experiments/cold-evidence.json")


def of(name: str) -> list[dict[str, Any]]:
    return [entry for entry in KEPT.results if entry["set"] == name]


def test_every_network_that_is_declared_is_in_the_run_and_no_other() -> None:
    for name, cases in (("declared", DECLARED), ("hard", HARD), ("held-out", held_out(SEED))):
        assert [entry["network"] for entry in of(name)] == [case.name for case in cases]
        assert len({case.name for case in cases}) == len(cases)
    assert all(case.why for case in HARD)
    assert 2 * KINDS["healthy"] > sum(KINDS.values())


def test_dead_shares_are_within_five_points_on_average() -> None:
    cells = {row[0]: row for row in tables(KEPT)[0].rows}
    for name in ("declared, all", "held-out, all"):
        assert float(cells[name][3]) < 5


def test_vanishing_is_found_without_a_false_alarm() -> None:
    vanishing = [entry for entry in of("declared") if "GS101" in entry["warm"]]
    assert len(vanishing) >= 9
    assert all("GS101" in entry["cold"] for entry in vanishing)
    assert not [
        entry["network"]
        for entry in KEPT.results
        if "GS101" in entry["cold"] and "GS101" not in entry["warm"]
    ]


def test_healthy_networks_have_no_findings() -> None:
    healthy = [entry for entry in KEPT.results if is_healthy(entry)]
    assert len(healthy) >= 50
    assert not [entry["network"] for entry in healthy if entry["cold"]]


@pytest.mark.parametrize("network", ["MLP, sgd, born dead", "MLP, adamw, healthy"])
def test_a_network_of_the_run_comes_out_the_same(network: str) -> None:
    names = [case.name for case in DECLARED]
    again = one("declared", names.index(network), SEED)
    (kept,) = [entry for entry in of("declared") if entry["network"] == network]
    assert (again["cold"], again["warm"]) == (kept["cold"], kept["warm"])
    # Another machine may round otherwise.
    for (_, cold, warm), (_, kept_cold, kept_warm) in zip(again["dead"], kept["dead"], strict=True):
        assert cold == pytest.approx(kept_cold, abs=0.05)
        assert warm == pytest.approx(kept_warm, abs=0.05)
