"""Stacks in which signals grow from layer to layer."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tests.zoo.subjects.datasets import images, table
from tests.zoo.subjects.networks import (
    PIXELS,
    Residual,
    Unrolled,
    convolutional,
    dense,
    initialised,
    scaled,
)
from tests.zoo.subjects.optimizers import adam, sgd
from tests.zoo.subjects.pairs import Setup, pair

SMALL = partial(images, 14)
CLASSES = partial(table, "class")

ORTHOGONAL = partial(nn.init.orthogonal_, gain=3.0)


def residual(blocks: int, scale: float, width: int = 32) -> nn.Module:
    branches = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(blocks)]
    layers = [Residual(initialised(branch, nn.init.kaiming_normal_), scale) for branch in branches]
    return nn.Sequential(nn.Linear(12, width), *layers, nn.Linear(width, 4))


def residual_convolutions(blocks: int, *, norm: bool) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, 2, 1)]
    for _ in range(blocks):
        branch: list[nn.Module] = [nn.BatchNorm2d(12)] * norm
        convolution = nn.Conv2d(12, 12, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        layers.append(Residual(nn.Sequential(*branch, convolution, nn.ReLU())))
    layers += [nn.BatchNorm2d(12)] * norm
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))


class Graph(nn.Module):
    """Each sample is a graph of 14 points, the rows of a picture, with half of all edges."""

    def __init__(self, *, divide: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(14, 48)
        self.layers = nn.ModuleList(nn.Linear(48, 48) for _ in range(6))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
        self.head = nn.Linear(48, 10)
        edges = torch.rand(14, 14, generator=torch.Generator().manual_seed(3)) < 0.5
        adjacency = (edges | edges.T | torch.eye(14, dtype=torch.bool)).float()
        degree = adjacency.sum(dim=1, keepdim=True)
        self.register_buffer("adjacency", adjacency / degree if divide else adjacency)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.squeeze(1))
        for layer in self.layers:
            x = torch.relu(self.adjacency @ layer(x))
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]


class Product(nn.Module):
    """The product of two linear maps, normalised or not."""

    def __init__(self, width: int, *, norm: bool) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.one, self.other):
            nn.init.normal_(layer.weight, std=1.6 / width**0.5)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.one(x) * self.other(x))  # type: ignore[no-any-return]


def products(*, norm: bool) -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 32), *(Product(32, norm=norm) for _ in range(4)), nn.Linear(32, 4)
    )


def norm_stack(depth: int) -> nn.Module:
    return dense(12, [32] * depth, 4, norm=nn.BatchNorm1d)


def relu_cell(gain: float) -> nn.Module:
    cell = nn.RNNCell(28, 48, nonlinearity="relu")
    nn.init.orthogonal_(cell.weight_hh, gain=gain)
    return Unrolled(cell, 48)


PLAIN = [12, 12, 0, *[12] * 10]

PAIRS = (
    # --- The gradient grows ---
    pair(
        "orthogonal-gain-3",
        "mlp-relu-18",
        "orthogonal weights with a gain of 3 in eighteen ReLU layers",
        "GS303",
        Setup(lambda: initialised(dense(PIXELS, [64] * 18), ORTHOGONAL, biases=0), sgd(0.01)),
        Setup(lambda: initialised(dense(PIXELS, [64] * 18), scaled(1), biases=0), sgd(0.01)),
        must="GS102",
        may="GS104 GS201 GS206 GS301 GS401 GS402 GS503 GS504",
    ),
    pair(
        "convolutions-he-times-3",
        "convolutional-10",
        "weights three times He's in ten convolutions",
        "GS303",
        Setup(
            lambda: initialised(convolutional([12] * 10), scaled(3), biases=0),
            sgd(0.01),
            data=SMALL,
        ),
        Setup(
            lambda: initialised(convolutional([12] * 10), scaled(1), biases=0),
            sgd(0.01),
            data=SMALL,
        ),
        may="GS101 GS102 GS103 GS104 GS203 GS204 GS205 GS206 GS301 GS401 GS402 GS503 GS504 GS703",
    ),
    pair(
        "residual-30-without-norm",
        "residual-30",
        "thirty residual branches with neither norm nor scale",
        "GS206",
        Setup(lambda: residual(30, 1.0), sgd(0.01), data=CLASSES),
        Setup(lambda: residual(30, 0.1), sgd(0.01), data=CLASSES),
        must="GS102",
        may="GS104 GS201 GS301 GS401 GS402 GS503 GS504",
    ),
    pair(
        "batch-norm-50",
        "mlp-batch-norm-50",
        "fifty layers with BatchNorm and no skip connection",
        "GS102",
        Setup(lambda: norm_stack(50), sgd(5e-4), data=CLASSES),
        Setup(lambda: norm_stack(8), sgd(5e-4), data=CLASSES),
        may="GS104 GS205 GS301 GS603",
    ),
    pair(
        "relu-cell-gain-2.5",
        "rnn-relu-cell",
        "a ReLU cell with recurrent weights of gain 2.5, over 28 steps",
        "GS102",
        Setup(lambda: relu_cell(2.5), sgd(0.01)),
        Setup(lambda: relu_cell(1.0), sgd(0.01)),
        must="GS206",
        may="GS104 GS301 GS303 GS401 GS402 GS503 GS504",
    ),
    # --- The forward signal grows ---
    pair(
        "residual-convolutions-without-norm",
        "residual-convolutions-20",
        "twenty residual branches of convolutions without norm",
        "GS206",
        Setup(lambda: residual_convolutions(20, norm=False), adam(), data=SMALL),
        Setup(lambda: residual_convolutions(20, norm=True), adam(), data=SMALL),
        may="GS102 GS203 GS504",
    ),
    pair(
        "graph-without-degree",
        "graph-sum",
        "neighbours summed and not divided by their number",
        "GS206",
        Setup(lambda: Graph(divide=False), adam(), data=SMALL),
        Setup(lambda: Graph(divide=True), adam(), data=SMALL),
        may="GS102 GS504",
        wants_author=True,
    ),
    pair(
        "products-without-norm",
        "product-layers",
        "products of layers, which square their scale, without norm",
        "GS206",
        Setup(lambda: products(norm=False), adam(), data=CLASSES),
        Setup(lambda: products(norm=True), adam(), data=CLASSES),
        may="GS102 GS104 GS502 GS503 GS504",
    ),
)

CASES = [entry.case for entry in PAIRS]
