"""The paper's Table 2: how well deep networks of two ReLUs a layer learn f(x) = abs(x).

    python examples/paper_relu_approximation.py

ReLU, Leaky ReLU with slope 0.01, and ReLU with the artificial derivative (AD) sigma(3.5 x), under
hyper-parameter sets A (mini-batches of 50, torch's default initialisation, Adam) and B (100, He,
SGD), 300 epochs, 100 runs each; Figures 3 and 4 count the same losses by size. With He's weights
biases are drawn as torch does: the paper says nothing, and zero biases agree less.

The paper does not give learning rates. Those of the tables, 0.003 for Adam and 0.03 for SGD, come
from a replica that matched it; beside them ReLU and AD ReLU are trained with others.

The AD is also run under the paper's conversion rule: AD and true derivative "can be converted to
each other" when an epoch's loss exceeds 1.035 times the best one. Which comes first, and whether
the AD column of its table was made so, is left open. So there are three readings: AD first and
to and fro, AD first and over once, ReLU first and to and fro.

Source: Hu, Zhang, Ge, "Handling Vanishing Gradient Problem Using Artificial Derivative", section
III.A.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from gradscope.derivatives import derivative
from gradscope.examples.experiments.approximation import (
    SETS,
    Cell,
    Losses,
    by_rate,
    compared,
    distribution,
    main,
    published,
    uniform,
)
from gradscope.examples.experiments.ensemble import Activation, Task, common, he
from gradscope.examples.experiments.handover import Converting, Never
from gradscope.examples.experiments.results import Run, Table

WIDTH = 2
LAYERS = (2, 4, 6, 8)
SAMPLES = (3000, 1000)
RATES = {"A": 3e-3, "B": 0.03}
OTHER_RATES = {"A": (1e-3, 1e-2, 3e-2), "B": (0.01, 0.1, 0.3)}

AD = derivative("relu-logistic", {"k": 3.5, "selective": False})
LEAKY = derivative("leaky-relu-logistic", {})

RELU, AD_RELU = "ReLU", "AD ReLU"
ARMS = {
    RELU: Activation(AD, handover=Never),
    "Leaky ReLU": Activation(LEAKY, handover=Never),
    AD_RELU: Activation(AD),
}
CONVERTING = {
    "AD, to and fro": Activation(AD, handover=Converting),
    "AD, then ReLU": Activation(AD, handover=partial(Converting, back=False)),
    "ReLU, to and fro": Activation(AD, handover=partial(Converting, artificial_first=False)),
}

PAPER = published(
    (AD_RELU, RELU, "Leaky ReLU"),
    {
        "A": {
            2: ("0.026", "0.089", "0.053"),
            4: ("0.016", "0.171", "0.013"),
            6: ("0.014", "0.195", "0.034"),
            8: ("0.019", "0.217", "0.025"),
        },
        "B": {
            2: ("0.0387", "0.0789", "0.0711"),
            4: ("0.0557", "0.161", "0.105"),
            6: ("0.0871", "0.189", "0.138"),
            8: ("0.136", "0.209", "0.169"),
        },
    },
)


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = uniform(count, 1, generator)
    return x, x.abs()


def task(name: str, layers: int, activation: Activation, rate: float, epochs: int) -> Task:
    """Of hyper-parameter set A or B, the paper's Table 1."""
    optimizer, batch_size = SETS[name]
    return Task(
        widths=(1, *[WIDTH] * (layers - 1), 1),
        initialise=common if name == "A" else he,
        activation=activation,
        ends=False,
        draw=draw,
        samples=SAMPLES,
        optimizer=optimizer,
        rate=rate,
        batch_size=batch_size,
        epochs=epochs,
    )


def cells(epochs: int) -> list[Cell]:
    return list(_cells(epochs))


def _cells(epochs: int) -> Iterator[Cell]:
    for name, rate in RATES.items():
        start = "default" if name == "A" else "He"
        for layers in LAYERS:
            for arm, activation in (ARMS | CONVERTING).items():
                yield Cell(name, start, layers, arm, task(name, layers, activation, rate, epochs))
            for other in OTHER_RATES[name]:
                for arm in (RELU, AD_RELU):
                    of_arm = task(name, layers, ARMS[arm], other, epochs)
                    yield Cell(name, start, layers, arm, of_arm)


def tables(run: Run) -> list[Table]:
    found = [Losses.read(entry) for entry in run.results]
    made = []
    for name, rate in RATES.items():
        mine = [cell for cell in found if cell.set == name]
        usual = [cell for cell in mine if cell.rate == rate]
        of_table = [cell for cell in usual if cell.arm in ARMS]
        of_rule = [cell for cell in usual if cell.arm in CONVERTING or cell.arm in (RELU, AD_RELU)]
        as_ad = {
            (name, layers, arm): PAPER[name, layers, AD_RELU]
            for layers in LAYERS
            for arm in CONVERTING
        }
        figure = "Figure 3" if name == "A" else "Figure 4"
        made += [
            compared(f"Table 2, set {name}: test losses", of_table, PAPER, RELU),
            distribution(f"{figure}, set {name}: runs by test loss", of_table),
            compared(
                f"Set {name} with the conversion rule",
                of_rule,
                {**PAPER, **as_ad},
                RELU,
                "The paper's figure is that of AD ReLU.",
            ),
            by_rate(f"Set {name}: mean test losses by learning rate", mine, (RELU, AD_RELU)),
        ]
    return made


if __name__ == "__main__":
    main("paper_relu_approximation.py", "The paper's Table 2", cells, tables)
