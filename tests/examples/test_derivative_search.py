"""The search for a default: what is compared is what its name says."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradscope.derivatives import derivative
from gradscope.examples import derivative_search as search
from gradscope.examples.experiments.candidates import OF_RELU, OF_SIGMOID, Candidate
from gradscope.examples.experiments.results import mean, read_run
from gradscope.examples.experiments.significance import p_value
from gradscope.examples.fashion_mnist import SAMPLE

FORMULAS = {
    "true derivative": lambda x: float(x > 0),
    "sigma(3.5 x)": lambda x: 1 / (1 + math.exp(-3.5 * x)),
    "slope 0.1": lambda x: 1.0 if x > 0 else 0.1,
    "1 or sigma(x)": lambda x: 1.0 if x > 0 else 1 / (1 + math.exp(-x)),
    "1 or 0.3 sigma(x)": lambda x: 1.0 if x > 0 else 0.3 / (1 + math.exp(-x)),
    "max(sigma(3.5 x), 0.05)": lambda x: max(1 / (1 + math.exp(-3.5 * x)), 0.05),
    "sigma(3.5 x) in abs(x) < 0.5": lambda x: (
        1 / (1 + math.exp(-3.5 * x)) if abs(x) < 0.5 else float(x > 0)
    ),
}


def y(x: float) -> float:
    return 1 / (1 + math.exp(-x))


SIGMOID_FORMULAS = {
    "true derivative": lambda x: y(x) * (1 - y(x)),
    "min(y, 1 - y)": lambda x: min(y(x), 1 - y(x)),
    "1.5 min(y, 1 - y)": lambda x: min(1, 1.5 * min(y(x), 1 - y(x))),
    "4 y (1 - y)": lambda x: 4 * y(x) * (1 - y(x)),
    "y (1 - y) + 0.25": lambda x: y(x) * (1 - y(x)) + 0.25,
}


@pytest.mark.parametrize(
    ("candidates", "formulas"), [(OF_RELU, FORMULAS), (OF_SIGMOID, SIGMOID_FORMULAS)]
)
def test_a_candidate_is_what_its_name_says(
    candidates: list[Candidate], formulas: dict[str, object]
) -> None:
    x = torch.linspace(-3, 3, 41, dtype=torch.float64) + 0.01
    by_name = {each.name: each for each in candidates}
    assert len(by_name) == len(candidates)
    for name, formula in formulas.items():
        candidate = by_name[name]
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            candidate.derivative(z, strength=float(candidate.share > 0)).sum(), z
        )
        expected = torch.tensor([formula(value) for value in x.tolist()], dtype=torch.float64)  # type: ignore[operator]
        torch.testing.assert_close(slope, expected)


def test_a_candidate_that_is_annealed_ends_with_the_true_derivative() -> None:
    annealed = next(each for each in OF_RELU if each.name == "sigma(3.5 x), annealed")
    handover = search.activation(annealed, 10).handover(3)
    strengths = []
    for _ in range(6):
        strengths.append(handover.strength)
        handover.step(torch.zeros(3))
    assert strengths == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


KEPT = read_run(Path(__file__).parents[2] / "docs/experiments/derivative-search.json")
DEFAULTS = {
    "ReLU": ("sigma(1 x), selective", "relu-logistic"),
    "sigmoid": ("min(y, 1 - y)", "sigmoid-min"),
}


@pytest.mark.parametrize("of", DEFAULTS)
def test_the_librarys_default_is_the_winner_among_the_harmless(of: str) -> None:
    name, of_library = DEFAULTS[of]
    (candidate,) = (each for each in search.CANDIDATES[of] if each.name == name)
    assert candidate.derivative == derivative(of_library, {})
    table, live = (each for each in search.tables(KEPT) if each.title.startswith(of))
    assert len(table.rows) == len(search.CANDIDATES[of])
    harmless = {row[0] for row in live.rows if row[-1] == "yes"}
    assert name in harmless
    losses = {
        entry["candidate"]: entry["losses"]
        for entry in KEPT.results
        if entry["of"] == of and entry["part"] == "table"
    }
    assert p_value(losses[name], losses[search.TRUE]) < 1e-4
    for other in harmless - {name}:
        assert p_value(losses[other], losses[name]) > 0.01, other
    # What is better on the tables alone ruins a live network.
    best = min(losses, key=lambda each: mean(losses[each]) if all_finite(losses[each]) else 9)
    assert best != name
    assert best not in harmless


def all_finite(values: list[float]) -> bool:
    return all(map(math.isfinite, values))


@pytest.mark.slow
def test_it_runs_as_a_script(tmp_path: Path) -> None:
    written = tmp_path / "run.json"
    which = ("--of", "ReLU", "--only", "sigma(2 x)")
    sizes = ("--runs", "2", "--epochs", "1", "--seeds", "1", "--live-epochs", "1", "--jobs", "1")
    ran = subprocess.run(
        [sys.executable, "-W", "error", search.__file__, *which, *sizes, "--json", str(written)],
        capture_output=True,
        text=True,
        env=os.environ | {"GRADSCOPE_DATA": str(SAMPLE)},
    )
    assert ran.returncode == 0, ran.stderr
    run = read_run(written)
    assert [each["candidate"] for each in run.results if each["part"] == "table"] == [
        "true derivative",
        "sigma(2 x)",
    ]
    assert len([each for each in run.results if each["part"] == "live"]) == 6
    assert "mean test losses on Table 2" in ran.stdout
    assert "live networks" in ran.stdout


def test_a_candidate_that_is_not_there_is_refused() -> None:
    ran = subprocess.run(
        [sys.executable, search.__file__, "--only", "nonsense"], capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert "no candidate is called 'nonsense'" in ran.stderr
