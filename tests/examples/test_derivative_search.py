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
from tests.zoo import derivatives as on_the_zoo

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
ZOO = read_run(Path(__file__).parents[2] / "docs/experiments/derivatives-on-the-zoo.json")


def learned(of: str) -> dict[str, list[float]]:
    """Losses on the paper's table, by candidate."""
    entries = [each for each in KEPT.results if (each["of"], each["part"]) == (of, "table")]
    return {each["candidate"]: each["losses"] for each in entries}


def harmless(of: str) -> set[str]:
    (live,) = (each for each in search.tables(KEPT) if each.title.startswith(f"{of}: live"))
    return {row[0] for row in live.rows if row[-1] == "yes"}


@pytest.mark.parametrize("of", search.DEFAULTS)
def test_the_kept_run_is_whole(of: str) -> None:
    losses = learned(of)
    assert list(losses) == [each.name for each in search.rows_of(of)]
    assert {len(each) for each in losses.values()} == {100}
    assert harmless(of) <= set(losses)
    tried = {
        (each["candidate"], each["network"], each["seed"])
        for each in KEPT.results
        if (each["of"], each["part"]) == (of, "live")
    }
    stable = [name for name in losses if all_finite(losses[name]) and name != "Leaky ReLU"]
    networks = [row.name for row in search.LIVE[of]]
    assert tried == {(a, b, seed) for a in stable for b in networks for seed in range(5)}


def test_the_default_of_relu_wins_among_the_harmless() -> None:
    default = search.DEFAULTS["ReLU"]
    (candidate,) = (each for each in OF_RELU if each.name == default)
    assert candidate.derivative == derivative("relu-logistic", {})
    losses, rivals = learned("ReLU"), harmless("ReLU") - {default}
    assert default in harmless("ReLU")
    better = {row[0]: int(row[1].split()[0]) for row in on_the_zoo.tables(ZOO)[0].rows}
    assert better[default] == 3
    assert len(rivals) > 3
    for rival in rivals:
        assert better[rival] <= better[default], rival
        # On the table it is not better than chance makes it.
        assert p_value(losses[rival], losses[default], two_sided=True) > 0.05 or (
            mean(losses[rival]) > mean(losses[default])
        ), rival
    for beaten in (search.TRUE, "Leaky ReLU"):
        assert p_value(losses[default], losses[beaten]) < 1e-4


def test_no_derivative_of_the_sigmoid_repairs_and_is_harmless() -> None:
    default = search.DEFAULTS["sigmoid"]
    (candidate,) = (each for each in OF_SIGMOID if each.name == default)
    assert candidate.derivative == derivative("sigmoid-min", {})
    losses = learned("sigmoid")
    assert p_value(losses[default], losses[search.TRUE]) < 1e-4
    for name in harmless("sigmoid"):
        assert mean(losses[name]) > 0.9 * mean(losses[search.TRUE]), name
    # The default is harmless but for the deepest network.
    (live,) = (each for each in search.tables(KEPT) if each.title.startswith("sigmoid: live"))
    (changes,) = (row[1:-1] for row in live.rows if row[0] == default)
    *shallow, deep = (float(change.partition(" ")[0]) for change in changes)
    assert min(shallow) > 0
    assert deep < -10


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
