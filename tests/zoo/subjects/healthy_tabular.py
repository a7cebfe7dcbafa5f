"""Healthy networks on tables: regressions of many kinds, classes and labels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.subjects.datasets import images, sets, table
from tests.zoo.subjects.networks import dense
from tests.zoo.subjects.optimizers import adagrad, adam, adamw, rmsprop, sgd
from tests.zoo.subjects.tasks import fresh_and_trained, regress

NUMBERS = partial(table, "number")
CLASSES = partial(table, "class")
LABELS = partial(table, "labels")


def huber(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.smooth_l1_loss(model(batch[0]), batch[1])


def label_each(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def label_by_probability(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of a model that ends in a sigmoid."""
    return functional.binary_cross_entropy(model(batch[0]), batch[1])


def classify_by_log_probability(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of a model that ends in a log-softmax."""
    return functional.nll_loss(model(batch[0]), batch[1])


def hinge(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.multi_margin_loss(model(batch[0]), batch[1])


def count(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """How often something happens, whose rate the number decides."""
    counts = torch.poisson(torch.exp(batch[1] + 0.5))
    return functional.poisson_nll_loss(model(batch[0]), counts)


def count_without_logarithm(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of a model that ends in a ReLU, for targets that are never negative."""
    return functional.mse_loss(model(batch[0]), batch[1].abs())


def quantiles(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The tenth, the fiftieth and the ninetieth percentile."""
    short = batch[1] - model(batch[0])
    levels = torch.tensor([0.1, 0.5, 0.9])
    return torch.maximum(levels * short, (levels - 1) * short).mean()


def with_uncertainty(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    mean, spread = model(batch[0]).chunk(2, dim=1)
    return functional.gaussian_nll_loss(mean, batch[1], functional.softplus(spread) + 1e-3)


class WideAndDeep(nn.Module):
    """Two columns of categories beside the numbers (Cheng et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(8, 6) for _ in range(2))
        self.wide = nn.Linear(12, 1)
        self.deep = dense(22, [64, 32], 1)

    def forward(self, x: Tensor) -> Tensor:
        categories = (x[:, :2] * 2 + 4).long().clamp(0, 7)
        looked_up = [table(column) for table, column in zip(self.tables, categories.T, strict=True)]
        return self.wide(x) + self.deep(torch.cat([x[:, 2:], *looked_up], dim=1))  # type: ignore[no-any-return]


class SetNetwork(nn.Module):
    """Sums over what is in a set (Zaheer et al. 2017)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.each = nn.Sequential(
            nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.all = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.all(self.each(x).mean(dim=1))  # type: ignore[no-any-return]


class Sine(nn.Module):
    """Sitzmann et al. 2020, with the weights that the paper draws."""

    def __init__(self, fan_in: int, width: int, *, first: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(fan_in, width)
        bound = 1 / fan_in if first else (6 / fan_in) ** 0.5 / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


def siren() -> nn.Module:
    return nn.Sequential(Sine(2, 64, first=True), Sine(64, 64), Sine(64, 64), nn.Linear(64, 1))


class Coordinates:
    """One picture as pairs of a place in [-1, 1] and its grey, (batch, 2) and (batch, 1)."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        picture = images().images[3, 0]
        axis = torch.linspace(-1, 1, 28)
        places = torch.cartesian_prod(axis, axis)
        for chosen in torch.randperm(784).split(196):
            yield places[chosen], picture.flatten()[chosen, None]


class Line:
    """Places (batch, 1) between 0 and 3 where an equation has to hold."""

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(20):
            yield 3 * torch.rand(64, 1)


def solve(model: nn.Module, batch: Tensor) -> Tensor:
    """u'' = -u with u(0) = 0 and u'(0) = 1: a second derivative inside the loss."""
    with torch.enable_grad():
        place = torch.cat([torch.zeros(1, 1), batch]).requires_grad_()
        u = model(place)
        slope = torch.autograd.grad(u.sum(), place, create_graph=True)[0]
        bend = torch.autograd.grad(slope.sum(), place, create_graph=True)[0]
        return (bend + u)[1:].square().mean() + u[0].square().sum() + (slope[0] - 1).square().sum()


def positive() -> nn.Module:
    model = dense(12, [48] * 2, 1)
    return nn.Sequential(*model, nn.ReLU())


def probabilities() -> nn.Module:
    return nn.Sequential(*dense(12, [48] * 2, 5, nn.Tanh), nn.Sigmoid())


def log_probabilities() -> nn.Module:
    return nn.Sequential(*dense(12, [48] * 3, 4, nn.LeakyReLU), nn.LogSoftmax(dim=1))


CASES = (
    *fresh_and_trained(
        "regression-linear", lambda: nn.Linear(12, 1), sgd(0.02), step=regress, data=NUMBERS
    ),
    *fresh_and_trained(
        "regression-mlp", lambda: dense(12, [64] * 3, 1), sgd(0.02), step=regress, data=NUMBERS
    ),
    *fresh_and_trained(
        "regression-huber",
        lambda: dense(12, [64] * 2, 1, nn.SiLU, norm=nn.LayerNorm),
        rmsprop(),
        step=huber,
        data=NUMBERS,
    ),
    *fresh_and_trained(
        "regression-poisson", lambda: dense(12, [64] * 2, 1), adam(2e-3), step=count, data=NUMBERS
    ),
    *fresh_and_trained(
        "regression-positive",
        positive,
        adam(2e-3),
        step=count_without_logarithm,
        data=NUMBERS,
    ),
    *fresh_and_trained(
        "regression-quantiles",
        lambda: dense(12, [64] * 2, 3, nn.GELU),
        adamw(2e-3),
        step=quantiles,
        data=NUMBERS,
    ),
    *fresh_and_trained(
        "regression-uncertainty",
        lambda: dense(12, [64] * 2, 2, nn.Softplus),
        adam(2e-3),
        step=with_uncertainty,
        data=NUMBERS,
    ),
    *fresh_and_trained("wide-and-deep", WideAndDeep, adagrad(), step=regress, data=NUMBERS),
    *fresh_and_trained("sets", SetNetwork, adam(3e-3), step=regress, data=sets, trained=300),
    *fresh_and_trained(
        "labels", lambda: dense(12, [64] * 2, 5), adam(2e-3), step=label_each, data=LABELS
    ),
    *fresh_and_trained(
        "labels-sigmoid",
        probabilities,
        adam(2e-3),
        step=label_by_probability,
        data=LABELS,
    ),
    *fresh_and_trained(
        "classes-log-softmax",
        log_probabilities,
        sgd(),
        step=classify_by_log_probability,
        data=CLASSES,
    ),
    *fresh_and_trained(
        "classes-hinge",
        lambda: dense(12, [64] * 2, 4),
        sgd(nesterov=True),
        step=hinge,
        data=CLASSES,
    ),
    *fresh_and_trained(
        "sine-network", siren, adam(1e-4), step=regress, data=Coordinates, trained=300
    ),
    *fresh_and_trained(
        "physics-informed",
        lambda: dense(1, [32] * 3, 1, nn.Tanh),
        adam(3e-3),
        step=solve,
        data=Line,
        trained=300,
    ),
)
