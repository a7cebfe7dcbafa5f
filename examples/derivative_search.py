"""Beyond the paper: which artificial derivative repairs most, and leaves a live network alone?

    python examples/derivative_search.py

Candidates are the paper's sigma(k x) and min(y, 1 - y), and what can be made of them: other k,
slopes, floors, windows, multiples; some of them also kept to idle units (selective) or handed over
to the true derivative in the first half of training (annealed). Each learns the networks of the
paper's Table 2 or Table 4 (from Xavier weights), and then trains networks that are alive, on
Fashion-MNIST, where it should end where the true derivative ends. (One that lets a run of the table
diverge has lost already.)

``python -m tests.zoo.derivatives`` tries ReLU's candidates on dead networks of other kinds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial
from typing import Any

import torch

from gradscope.examples import paper_relu_approximation as paper_relu
from gradscope.examples import paper_sigmoid_comparison as paper_sigmoid
from gradscope.examples import slides_fashion_mnist as slides
from gradscope.examples.deep_sigmoid_mlp import BATCH_SIZE
from gradscope.examples.experiments.approximation import EPOCHS
from gradscope.examples.experiments.candidates import (
    OF_RELU,
    OF_SIGMOID,
    TRUE,
    Candidate,
    train_with,
)
from gradscope.examples.experiments.command_line import (
    Call,
    add_options,
    all_of,
    command,
    finish,
    positive,
)
from gradscope.examples.experiments.ensemble import Activation, Task, train
from gradscope.examples.experiments.handover import Annealed, Never
from gradscope.examples.experiments.results import Run, Table, mean, standard_error
from gradscope.examples.experiments.significance import format_p, p_value
from gradscope.examples.fashion_mnist import load_fashion_mnist
from gradscope.examples.training import accuracy
from gradscope.trial import Arm, Running

CANDIDATES = {"ReLU": OF_RELU, "sigmoid": OF_SIGMOID}
LEAKY_RELU = Candidate("Leaky ReLU", paper_relu.LEAKY, share=0)
"""On the table beside the candidates; it is another activation."""

DEFAULTS = {"ReLU": "sigma(1 x), selective", "sigmoid": "min(y, 1 - y)"}
"""What the library uses where nothing else is said (decision 25)."""

ALLOWED = 0.01
"""How much accuracy a derivative may cost a live network, in shares of the test images."""

LIVE = {
    "ReLU": (
        slides.Row("7 layers, N(0, 0.05)", slides.RELU),
        slides.Row("16 layers, He", slides.RELU + slides.HE, layers=16),
        slides.Row("7 layers, BatchNorm", slides.RELU + slides.BATCH_NORM),
    ),
    "sigmoid": (
        slides.Row("7 layers, N(0, 1)", slides.act("re-initialise", scheme="normal", sigma=1.0)),
        slides.Row("7 layers, Xavier x 4", slides.act("re-initialise", scheme="xavier", gain=4.0)),
        slides.Row("7 layers, BatchNorm", slides.BATCH_NORM),
        slides.Row("16 layers, BatchNorm", slides.BATCH_NORM, layers=16),
    ),
}
"""Live networks as the slides' series makes them, of 128 units a layer."""


_FORMS = {
    "ReLU": "1 or σ(x): 1 where x > 0, else σ(x). In abs(x) < 2: the true derivative beyond. "
    "Slope: 1 where x > 0, else the slope. Selective: for units that are off on the whole batch. "
    "Annealed: over the first half of the training. Leaky ReLU: another activation, of slope 0.01, "
    "with its own derivative.",
    "sigmoid": "No derivative is above 1. Selective: for saturated units alone. Annealed: over the "
    "first half of the training.",
}


def rows_of(of: str) -> list[Candidate]:
    """What learns the paper's table."""
    return [*CANDIDATES[of], LEAKY_RELU] if of == "ReLU" else CANDIDATES[of]


def activation(candidate: Candidate, epochs: int) -> Activation:
    if candidate.share == 0:
        return Activation(candidate.derivative, handover=Never)
    if math.isinf(candidate.share):
        return Activation(candidate.derivative)
    over = partial(Annealed, epochs=max(1, round(epochs * candidate.share)))
    return Activation(candidate.derivative, handover=over)


def tasks(of: str, candidate: Candidate, epochs: int) -> dict[str, Task]:
    """The networks of the paper's table, by set and layers."""
    used = activation(candidate, epochs)
    if of == "ReLU":
        return {
            f"{name}{layers}": paper_relu.task(name, layers, used, rate, epochs)
            for name, rate in paper_relu.RATES.items()
            for layers in paper_relu.LAYERS
        }
    return {
        f"{name}{layers}": paper_sigmoid.task(name, "Xavier", layers, used, rate, epochs)
        for name, rate in paper_sigmoid.RATES.items()
        for layers in paper_sigmoid.LAYERS[name]
    }


def learn(of: str, candidate: Candidate, runs: int, epochs: int) -> dict[str, Any]:
    """All networks of the table; ``losses`` are means over them, one of each seed."""
    torch.set_num_threads(1)
    best = {name: train(task, range(runs)) for name, task in tasks(of, candidate, epochs).items()}
    losses = torch.stack(list(best.values())).mean(0)
    return {
        "part": "table",
        "of": of,
        "candidate": candidate.name,
        "cells": {name: round(losses.mean().item(), 5) for name, losses in best.items()},
        "losses": [round(loss, 5) for loss in losses.tolist()],
    }


def train_live(
    of: str, candidate: Candidate, row: slides.Row, seed: int, epochs: int
) -> dict[str, Any]:
    """One training of a live network."""
    torch.set_num_threads(1)
    data = load_fashion_mnist()
    steps = epochs * (len(data.train_labels) // BATCH_SIZE)
    plan = slides.plan_of(row, steps)
    running = Running(slides.subject_of(row.layers), Arm(row.name, plan), seed)
    train_with(candidate, running, [("*", candidate.derivative)], steps)
    return {
        "part": "live",
        "of": of,
        "candidate": candidate.name,
        "network": row.name,
        "seed": seed,
        "accuracy": round(accuracy(running.model, data), 4),
    }


def tables(run: Run) -> list[Table]:
    made = []
    for of in CANDIDATES:
        mine = [entry for entry in run.results if entry["of"] == of]
        on_table = {entry["candidate"]: entry for entry in mine if entry["part"] == "table"}
        if on_table:
            made.append(_table(of, on_table))
        alive = [entry for entry in mine if entry["part"] == "live"]
        if alive:
            made.append(_live_table(of, alive, run))
    return made


def _table(of: str, entries: dict[str, dict[str, Any]]) -> Table:
    default = entries.get(DEFAULTS[of])
    rows = []
    for name, entry in entries.items():
        sets = [
            mean([value for cell, value in entry["cells"].items() if cell.startswith(letter)])
            for letter in "AB"
        ]
        losses = entry["losses"]
        diverged = sum(not math.isfinite(loss) for loss in losses)
        shown = [f"{value:.4f}" for value in (*sets, mean(losses), standard_error(losses))]
        if diverged:
            shown = [f"{sets[0]:.4f}" if math.isfinite(sets[0]) else "–", "–", "–", "–"]
        p = ""
        if default is not None and entry is not default:
            p = format_p(p_value(losses, default["losses"], two_sided=True))
        rows.append((name, *shown, f"{diverged} diverged" if diverged else p))
    number = 2 if of == "ReLU" else 4
    return Table(
        f"{of}: mean test losses on Table {number}",
        ("derivative", "set A", "set B", "all", "s. e.", "p"),
        rows,
        f"p: of all being so far from those of {DEFAULTS[of]}, the library's default, by chance "
        f"(paired permutation test, not corrected for the number of rows). {_FORMS[of]}",
    )


def _live_table(of: str, entries: Sequence[dict[str, Any]], run: Run) -> Table:
    found: dict[tuple[str, str], list[float]] = {}
    for entry in entries:
        found.setdefault((entry["candidate"], entry["network"]), []).append(entry["accuracy"])
    networks = list(dict.fromkeys(entry["network"] for entry in entries))
    rows = []
    for name in dict.fromkeys(entry["candidate"] for entry in entries):
        gains = [
            [one - other for one, other in zip(found[name, each], found[TRUE, each], strict=True)]
            for each in networks
        ]
        costs = [mean(each) for each in gains]
        shown = [
            f"{mean(found[name, each]):.1%}"
            if name == TRUE
            else f"{100 * cost:+.1f} ± {100 * standard_error(gain):.1f}"
            for each, cost, gain in zip(networks, costs, gains, strict=True)
        ]
        harmless = "" if name == TRUE else "yes" if min(costs) >= -ALLOWED else "no"
        rows.append((name, *shown, harmless))
    epochs, seeds, data = (run.settings[name] for name in ("live_epochs", "seeds", "data"))
    return Table(
        f"{of}: live networks, test accuracy after {epochs} epochs, {seeds} seeds",
        ("derivative", *networks, "harmless"),
        rows,
        f"In points beside the true derivative, ± their standard error, on {data}. "
        f"Harmless: no network loses more than {100 * ALLOWED:g}.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--of", choices=CANDIDATES, nargs="+", default=list(CANDIDATES))
    parser.add_argument("--only", default="*", help="names of candidates, with * for any text")
    parser.add_argument("--runs", type=positive, default=100, help="a network of the tables")
    parser.add_argument("--epochs", type=positive, default=EPOCHS, help="of the tables")
    parser.add_argument("--seeds", type=positive, default=5, help="a live network")
    parser.add_argument("--live-epochs", type=positive, default=3, help="of live networks")
    add_options(parser)
    arguments = parser.parse_args()
    chosen = [
        (of, candidate)
        for of in arguments.of
        for candidate in rows_of(of)
        if candidate.name == TRUE or fnmatch(candidate.name, arguments.only)
    ]
    if len(chosen) == len(arguments.of):
        parser.error(f"no candidate is called {arguments.only!r}")
    sizes = (arguments.runs, arguments.epochs)
    calls: list[Call] = [(learn, (of, candidate, *sizes)) for of, candidate in chosen]
    learned = all_of(calls, arguments.jobs, "learning")
    calls = [
        (train_live, (of, candidate, row, seed, arguments.live_epochs))
        for (of, candidate), entry in zip(chosen, learned, strict=True)
        if all(map(math.isfinite, entry["losses"])) and candidate is not LEAKY_RELU
        for row in LIVE[of]
        for seed in range(arguments.seeds)
    ]
    results = learned + all_of(calls, arguments.jobs, "training")
    names = ("runs", "epochs", "seeds", "live_epochs")
    settings = {name: getattr(arguments, name) for name in names}
    settings["data"] = load_fashion_mnist().name
    made_by = command("examples/derivative_search.py", parser, arguments)
    finish(Run(made_by, settings, results), tables, arguments.json)


if __name__ == "__main__":
    main()
