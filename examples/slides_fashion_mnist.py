"""The slides' series: what trains seven sigmoid layers on Fashion-MNIST, and what does not.

Baselines of 3, 5 and 7 layers (784-128x7-10, sigmoid, weights N(0, 0.05), SGD), then the slides'
remedies one by one on the seven layers, then artificial derivatives and combinations. Each row is
a plan that gradscope carries out; all rows of a seed share weights (as far as the plan leaves
them) and the order of batches.

    python examples/slides_fashion_mnist.py
    python examples/slides_fashion_mnist.py --rows 'adam*' --epochs 2 --seeds 2

On the full Fashion-MNIST where it is installed, else on the shipped sample. It prints the test
accuracy after the last epoch (mean over seeds, 95 % interval), how much of the backward signal of
the last hidden layer arrives at the first, before and after training, and the time of a run.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

from gradscope.examples.deep_sigmoid_mlp import (
    BATCH_SIZE,
    HIDDEN_LAYERS,
    LEARNING_RATE,
    WIDTH,
    build_data,
    build_model,
    build_optimizer,
    evaluate,
    loss,
)
from gradscope.examples.experiments.command_line import (
    add_options,
    all_of,
    command,
    finish,
    positive,
)
from gradscope.examples.experiments.results import Run, Table, mean, standard_error
from gradscope.examples.fashion_mnist import load_fashion_mnist
from gradscope.examples.training import accuracy
from gradscope.profile import profile
from gradscope.records import Plan, Prescription, Value
from gradscope.registry import remedy
from gradscope.subject import Subject, step_from_loss
from gradscope.trial import Arm, Running


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the line.
        acts: remedies with their parameters, in order.
        layers: hidden ones.
    """

    name: str
    acts: tuple[tuple[str, dict[str, Value]], ...] = ()
    layers: int = HIDDEN_LAYERS


@dataclass(frozen=True)
class Result:
    """Of one row and one seed; ratios are of backward signals, first over last activation."""

    row: str
    seed: int
    accuracy: float
    ratio_before: float
    ratio_after: float
    seconds: float


def act(name: str, **parameters: Value) -> tuple[tuple[str, dict[str, Value]], ...]:
    return ((name, parameters),)


XAVIER = act("re-initialise", scheme="xavier")
HE = act("re-initialise", scheme="he")
RELU = act("activation-swap", activation="relu")
BATCH_NORM = act("norm-insertion", layers=f"BatchNorm1d({WIDTH})")
AD_SIGMOID = act("artificial-derivative", derivative="sigmoid-min")
AD_RELU = act("artificial-derivative", derivative="relu-logistic", k=3.5, selective=False)
SELECTIVE = act("artificial-derivative", derivative="relu-logistic")  # as it is by default

ROWS = (
    Row("3 layers", layers=3),
    Row("5 layers", layers=5),
    Row("7 layers"),
    Row("weights N(0, 1)", act("re-initialise", scheme="normal", sigma=1.0)),
    Row("weights N(0, 10)", act("re-initialise", scheme="normal", sigma=10.0)),
    Row("ReLU", RELU),
    Row("Adam", act("optimizer-swap", optimizer="adam", lr=1e-3)),
    Row("SGD with momentum 0.9", act("optimizer-swap", optimizer="momentum", lr=LEARNING_RATE)),
    Row("BatchNorm", BATCH_NORM),
    Row("CustomNorm", act("norm-insertion", layers="CustomNorm(1)")),
    Row("skip connections", act("skip-connection", gate="one")),
    Row("layerwise training, seven stages", act("layerwise-training")),
    Row("sigmoid's derivative + 0.05", act("beta-derivative", beta=0.05)),
    Row("SDAGD", act("optimizer-swap", optimizer="sdagd")),
    Row("AD sigmoid", AD_SIGMOID),
    Row("Xavier", XAVIER),
    Row("Xavier x 4", act("re-initialise", scheme="xavier", gain=4.0)),
    Row("LSUV", act("re-initialise", scheme="lsuv")),
    Row("tanh", act("activation-swap", activation="tanh")),
    Row("Isigmoid", act("activation-swap", activation="isigmoid")),
    Row("LayerNorm", act("norm-insertion", layers=f"LayerNorm({WIDTH})")),
    Row("AD sigmoid + Xavier x 4", AD_SIGMOID + act("re-initialise", scheme="xavier", gain=4.0)),
    Row("AD sigmoid + BatchNorm", AD_SIGMOID + BATCH_NORM),
    Row("AD sigmoid + skip connections", AD_SIGMOID + act("skip-connection", gate="one")),
    Row("ReLU + He", RELU + HE),
    Row("ReLU + AD ReLU", RELU + AD_RELU),
    Row("ReLU + He + AD ReLU", RELU + HE + AD_RELU),
    Row("ReLU + selective AD", RELU + SELECTIVE),
)


def subject_of(layers: int) -> Subject:
    return Subject(
        name=f"{layers} sigmoid layers",
        build_model=lambda: build_model(layers),
        build_data=build_data,
        step=step_from_loss(loss),
        build_optimizer=build_optimizer,
        evaluate=evaluate,
    )


def sites_of(name: str, model: nn.Module) -> tuple[str, ...]:
    """Where a remedy acts: at all hidden layers that it can be applied to."""
    linear = [site for site, module in model.named_modules() if isinstance(module, nn.Linear)]
    sigmoid = [site for site, module in model.named_modules() if isinstance(module, nn.Sigmoid)]
    match name:
        case "optimizer-swap":
            return ()
        case "re-initialise":
            return tuple(linear)
        case "skip-connection":
            return tuple(linear[1:-1])
        case "layerwise-training":
            return tuple(site for pair in zip(linear, sigmoid, strict=False) for site in pair)
        case _:
            return tuple(sigmoid)


def plan_of(row: Row, steps: int) -> Plan:
    """The row's remedies as a plan for a training of so many steps."""
    model = build_model(row.layers)
    found: list[Prescription] = []
    for name, parameters in row.acts:
        if name == "layerwise-training":
            # Two layers in each group, and seven stages of equal length.
            parameters = {"groups": "4 4 4 2", "steps": steps // 7}
        entry = remedy(name)
        sites = sites_of(name, model)
        found.append(Prescription(name, entry.changes, sites, parameters, "", ""))
    return Plan(tuple(found))


def ratio(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """How much of the backward signal of the last activation is left at the first."""
    seen = profile(
        model, batches, lambda output, batch: nn.functional.cross_entropy(output, batch[1])
    )
    signals = [site.backward_rms[0] for site in seen.activations]
    return signals[0] / signals[-1] if signals[-1] else math.nan


def train_row(row: Row, seed: int, epochs: int) -> Result:
    torch.set_num_threads(1)
    subject = subject_of(row.layers)
    data = load_fashion_mnist()
    steps = epochs * (len(data.train_labels) // BATCH_SIZE)
    probe = [(data.train_images[:512], data.train_labels[:512])]
    training = Running(subject, Arm(row.name, plan_of(row, steps)), seed)
    before = ratio(training.model, probe)
    start = time.perf_counter()
    training.advance(steps)
    seconds = time.perf_counter() - start
    after = math.nan if training.diverged else ratio(training.model, probe)
    metric = accuracy(training.model, data)
    return Result(row.name, seed, metric, before, after, seconds)


def interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean."""
    if len(values) < 2:
        return math.nan
    return standard_error(values) * float(stats.t.ppf(0.975, len(values) - 1))


def tables(run: Run) -> list[Table]:
    rows = []
    for name in dict.fromkeys(result["row"] for result in run.results):
        mine = [result for result in run.results if result["row"] == name]
        accuracies = [result["accuracy"] for result in mine]
        rows.append(
            (
                name,
                f"{mean(accuracies):.1%} ± {interval(accuracies):.1%}",
                *(_ratio(mine, when) for when in ("ratio_before", "ratio_after")),
                f"{mean([result['seconds'] for result in mine]):.0f}",
            )
        )
    epochs, seeds, data = (run.settings[name] for name in ("epochs", "seeds", "data"))
    title = f"{epochs} epochs, {seeds} seeds, Fashion-MNIST: {data}"
    return [Table(title, ("training", "test accuracy", "signal left", "after", "s a run"), rows)]


def _ratio(results: Sequence[dict[str, Any]], when: str) -> str:
    return f"{mean([result[when] for result in results]):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=positive, default=14)
    parser.add_argument("--seeds", type=positive, default=5)
    parser.add_argument("--rows", default="*", help="names, with * for any text")
    add_options(parser)
    arguments = parser.parse_args()
    rows = [row for row in ROWS if fnmatch(row.name.lower(), arguments.rows.lower())]
    if not rows:
        parser.error(f"no row is called {arguments.rows!r}")
    tasks = [(row, seed) for row in rows for seed in range(arguments.seeds)]
    calls = [(train_row, (row, seed, arguments.epochs)) for row, seed in tasks]
    results = all_of(calls, arguments.jobs, "training")
    kept = Run(
        command("examples/slides_fashion_mnist.py", parser, arguments),
        {
            "epochs": arguments.epochs,
            "seeds": arguments.seeds,
            "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "data": load_fashion_mnist().name,
        },
        [asdict(result) for result in results],
    )
    finish(kept, tables, arguments.json)


if __name__ == "__main__":
    main()
