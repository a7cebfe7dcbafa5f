"""The bias meter: how far artificial derivatives turn the gradient of a fresh MLP, by depth.

The cosine between the gradient with an artificial derivative and the true one, over depth and
steepness: of `relu-logistic` on ReLU under three initialisations, everywhere and kept to dead
units, and of sigmoid's two derivatives under two. Depth is the number of hidden layers, of 128
units each, between the 784 pixels of Fashion-MNIST and 10 outputs under cross-entropy.

    python examples/bias_meter.py
    python examples/bias_meter.py --depths 2 10 --k 1 20 --seeds 2

Each seed draws weights and one batch of the shipped sample, so everybody gets the same numbers. All
is in float64, so that rounding has no part in them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from gradscope.bias import bias
from gradscope.derivatives import derivatives
from gradscope.examples.experiments.command_line import add_options, command, finish, positive
from gradscope.examples.experiments.results import Run, Table, mean, standard_error
from gradscope.examples.fashion_mnist import SAMPLE, load_fashion_mnist
from gradscope.patch import replace_derivative
from gradscope.records import Value

DEPTHS = tuple(range(2, 21, 2))
STEEPNESSES = (0.5, 1.0, 2.0, 3.5, 10.0, 20.0)
SEEDS = 5
WIDTH = 128
BATCH_SIZE = 256
WEIGHT_STD = 0.05

HE, XAVIER, PYTORCH, NORMAL = "He", "Xavier", "PyTorch", f"N(0, {WEIGHT_STD})"
RELU_WEIGHTS = (HE, PYTORCH, NORMAL)
SIGMOID_WEIGHTS = (XAVIER, PYTORCH)

RELU = "relu-logistic"
SELECTIVE = "selective"
SIGMOIDS = ("sigmoid-min", "sigmoid-beta")
SELECTIVE_K = 1.0
"""The steepness of relu-logistic where it is selective: its default."""

QUANTITIES = {
    "cosine": "cosine of the whole gradient",
    "first_cosine": "cosine of the first layer's gradient",
    "first_ratio": "norm of the first layer's gradient over the true one",
}
"""What an entry of the results holds; the first layer's are of its weights, without biases."""

MOSTLY_THE_LAST = (
    "From six layers on, most of this gradient is the output layer's, which no derivative turns."
)

Batch = tuple[Tensor, Tensor]
Entry = dict[str, Any]


# --- Measuring ------------------------------------------------------------------------------------


def build_model(depth: int, activation: type[nn.Module], weights: str) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in in [28 * 28] + [WIDTH] * (depth - 1):
        layers += [nn.Linear(fan_in, WIDTH), activation()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    for layer in model:
        if isinstance(layer, nn.Linear) and weights != PYTORCH:
            draw(layer, weights)
    return model.double()


def draw(layer: nn.Linear, weights: str) -> None:
    """Weights as named, zero biases."""
    nn.init.zeros_(layer.bias)
    if weights == XAVIER:
        nn.init.xavier_normal_(layer.weight)
    else:
        deviation = math.sqrt(2 / layer.in_features) if weights == HE else WEIGHT_STD
        nn.init.normal_(layer.weight, 0.0, deviation)


def draw_batch() -> Batch:
    data = load_fashion_mnist(SAMPLE)
    chosen = torch.randperm(len(data.train_images))[:BATCH_SIZE]
    return data.train_images[chosen].double(), data.train_labels[chosen]


def loss(output: Tensor, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


def dead_share(model: nn.Sequential, images: Tensor) -> float:
    """Of all hidden ReLUs, how many are zero on every image."""
    dead = []
    with torch.no_grad():
        for layer in model:
            images = layer(images)
            if isinstance(layer, nn.ReLU):
                dead.append((images == 0).all(dim=0).double().mean().item())
    return mean(dead)


def measure(model: nn.Module, batch: Batch, derivative: str, **parameters: Value) -> Entry:
    with replace_derivative(model, derivative, "*", 1.0, **parameters) as patch:
        found = bias(model, [batch], loss, patch)
    first = found.parameters[0]
    values = (found.whole.cosine, first.cosine, first.ratio)
    return {name: rounded(value) for name, value in zip(QUANTITIES, values, strict=True)}


def rounded(value: float) -> float:
    return float(f"{value:.5g}")


def measure_relu(weights: str, depth: int, ks: Sequence[float], seed: int) -> list[Entry]:
    torch.manual_seed(seed)
    model, batch = build_model(depth, nn.ReLU, weights), draw_batch()
    cell = {"weights": weights, "depth": depth, "seed": seed}
    entries = [
        cell | {"derivative": RELU, "k": k} | measure(model, batch, RELU, k=k, selective=False)
        for k in ks
    ]
    selective = measure(model, batch, RELU, k=SELECTIVE_K, selective=True)
    selective |= {"dead": rounded(dead_share(model, batch[0]))}
    return [*entries, cell | {"derivative": SELECTIVE, "k": SELECTIVE_K} | selective]


def measure_sigmoid(weights: str, depth: int, seed: int) -> list[Entry]:
    torch.manual_seed(seed)
    model, batch = build_model(depth, nn.Sigmoid, weights), draw_batch()
    cell = {"weights": weights, "depth": depth, "seed": seed}
    return [
        cell | {"derivative": derivative} | measure(model, batch, derivative)
        for derivative in SIGMOIDS
    ]


def measure_all(depth: int, ks: Sequence[float], seed: int) -> Iterator[Entry]:
    for weights in RELU_WEIGHTS:
        yield from measure_relu(weights, depth, ks, seed)
    for weights in SIGMOID_WEIGHTS:
        yield from measure_sigmoid(weights, depth, seed)


# --- Tables ---------------------------------------------------------------------------------------


def tables(run: Run) -> list[Table]:
    """Three of relu-logistic for each initialisation, one of it selective, two of sigmoid's."""
    read = (
        "Rows are numbers of hidden layers. 0.73(1) is 0.73 ± 0.01, mean and standard error over "
        f"{run.settings['seeds']} seeds."
    )
    ks = dict.fromkeys(entry["k"] for entry in run.results if entry["derivative"] == RELU)
    found = []
    for weights in RELU_WEIGHTS:
        for quantity, what in QUANTITIES.items():
            wanted = {"weights": weights, "derivative": RELU}
            columns = {f"k = {k:g}": (quantity, wanted | {"k": k}) for k in ks}
            note = read if weights == HE or quantity != "cosine" else f"{read} {MOSTLY_THE_LAST}"
            found.append(table_of(run, f"{RELU}, {weights}: {what}", columns, note))
    columns = {}
    for weights in RELU_WEIGHTS:
        wanted = {"weights": weights, "derivative": SELECTIVE}
        columns |= {weights: ("cosine", wanted), f"{weights}, dead": ("dead", wanted)}
    note = (
        f"{read} Dead: share of units that are zero on the whole batch; only they are changed. "
        f"Weights of {HE} and of {NORMAL} differ in their scale alone, so the same units are dead."
    )
    title = f"{RELU}, selective, k = {SELECTIVE_K:g}: {QUANTITIES['cosine']}"
    found.append(table_of(run, title, columns, note))
    short = dict(zip(("whole", "first", "norm"), QUANTITIES, strict=True))
    note = "; ".join(f"{name}: {QUANTITIES[quantity]}" for name, quantity in short.items())
    for derivative in SIGMOIDS:
        columns = {
            f"{weights}, {name}": (quantity, {"weights": weights, "derivative": derivative})
            for weights in SIGMOID_WEIGHTS
            for name, quantity in short.items()
        }
        title = f"{derivative}, {derivatives()[derivative].formula} for y (1 - y)"
        found.append(table_of(run, title, columns, f"{read} {note.capitalize()}."))
    return found


def table_of(
    run: Run, title: str, columns: Mapping[str, tuple[str, Mapping[str, Any]]], note: str
) -> Table:
    """Rows are depths. A column is a quantity of the entries that have certain values."""
    rows = []
    for depth in dict.fromkeys(entry["depth"] for entry in run.results):
        cells = [
            shown(
                [
                    entry[quantity]
                    for entry in run.results
                    if entry["depth"] == depth
                    and all(entry.get(name) == value for name, value in wanted.items())
                ],
                quantity == "first_ratio",
            )
            for quantity, wanted in columns.values()
        ]
        rows.append((str(depth), *cells))
    return Table(title, ("layers", *columns), rows, note)


def shown(values: Sequence[float], is_ratio: bool) -> str:
    """The mean, down to the first digit of its standard error, which is in brackets."""
    value, error = mean(values), standard_error(values)
    if not math.isfinite(value):
        return "–"
    if is_ratio and not 0.01 <= value < 100:
        # With its error it would be too wide for six columns on a terminal.
        power = math.floor(math.log10(value)) if value > 0 else 0
        return f"{value / 10.0**power:.1f}e{power}"
    decimals = 3
    if math.isfinite(error) and error > 0:
        decimals = max(0, min(decimals, -int(f"{error:.0e}".partition("e")[2])))
    digit = f"({error * 10**decimals:.0f})" if math.isfinite(error) else ""
    return f"{value:.{decimals}f}{digit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--depths", type=positive, nargs="+", default=DEPTHS, help="hidden layers")
    parser.add_argument("--k", type=float, nargs="+", default=STEEPNESSES, help="steepnesses")
    parser.add_argument("--seeds", type=positive, default=SEEDS)
    add_options(parser, processes=False)
    arguments = parser.parse_args()
    if min(arguments.k) <= 0:
        parser.error("k is above 0")
    cells = [(depth, seed) for depth in arguments.depths for seed in range(arguments.seeds)]
    progress = track(cells, "measuring", console=Console(stderr=True))
    settings = {
        "seeds": arguments.seeds,
        "width": WIDTH,
        "batch_size": BATCH_SIZE,
        "data": "shipped sample",
    }
    run = Run(
        command("examples/bias_meter.py", parser, arguments),
        settings,
        [entry for depth, seed in progress for entry in measure_all(depth, arguments.k, seed)],
    )
    finish(run, tables, arguments.json)


if __name__ == "__main__":
    main()
