"""Healthy multilayer perceptrons on pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tests.zoo.subjects.networks import PIXELS, dense, initialised
from tests.zoo.subjects.optimizers import adagrad, adam, adamw, rmsprop, sgd
from tests.zoo.subjects.tasks import fresh_and_trained

he = partial(nn.init.kaiming_normal_, nonlinearity="relu")
lecun = partial(nn.init.kaiming_normal_, nonlinearity="linear")


def mlp(
    activation: Callable[[], nn.Module],
    depth: int,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """``depth`` hidden layers on a picture's pixels, and ten logits."""
    return dense(PIXELS, [128] * depth, activation=activation, norm=norm)


def with_dropout() -> nn.Module:
    layers = [
        part
        for fan_in in (PIXELS, 128)
        for part in (nn.Linear(fan_in, 128), nn.ReLU(), nn.Dropout(0.3))
    ]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(128, 10))


class GatedResidual(nn.Module):
    """x + α f(x) with an α that starts at zero (Bachlechner et al. 2020, ReZero)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate * torch.relu(self.layer(x))


def rezero() -> nn.Module:
    blocks = [GatedResidual(96) for _ in range(8)]
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 96), *blocks, nn.Linear(96, 10))


class Highway(nn.Module):
    """A learned mixture of the layer and its input (Srivastava et al. 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(self.gate(x))
        return share * torch.relu(self.layer(x)) + (1 - share) * x


def highway() -> nn.Module:
    blocks = [Highway(64) for _ in range(6)]
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 64), *blocks, nn.Linear(64, 10))


def zero_head() -> nn.Module:
    """An output layer of zeros, so that the first prediction favours no class."""
    model = mlp(nn.ReLU, 3)
    initialised(model[-1], nn.init.zeros_, biases=0)
    return model


CASES = (
    *fresh_and_trained("linear", lambda: nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 10)), sgd()),
    *fresh_and_trained("mlp-relu-3", lambda: mlp(nn.ReLU, 3), sgd(), trained=400),
    *fresh_and_trained("mlp-relu-5", lambda: mlp(nn.ReLU, 5), sgd(), trained=400),
    *fresh_and_trained("mlp-relu-8-adam", lambda: mlp(nn.ReLU, 8), adam(), trained=400),
    *fresh_and_trained(
        "mlp-relu-20-he-adam", lambda: initialised(mlp(nn.ReLU, 20), he), adam(), trained=400
    ),
    *fresh_and_trained("mlp-relu-20-batchnorm", lambda: mlp(nn.ReLU, 20, nn.BatchNorm1d), adam()),
    *fresh_and_trained("mlp-relu-dropout", with_dropout, adamw(weight_decay=0.05)),
    *fresh_and_trained(
        "mlp-leaky-relu-4",
        lambda: mlp(nn.LeakyReLU, 4),
        sgd(nesterov=True, weight_decay=5e-4),
        trained=400,
    ),
    *fresh_and_trained("mlp-tanh-5", lambda: mlp(nn.Tanh, 5), sgd(), trained=400),
    *fresh_and_trained("mlp-tanh-8", lambda: mlp(nn.Tanh, 8), sgd(), trained=400),
    *fresh_and_trained(
        "mlp-tanh-xavier-adagrad",
        lambda: initialised(mlp(nn.Tanh, 3), nn.init.xavier_uniform_),
        adagrad(),
    ),
    *fresh_and_trained("mlp-sigmoid-2", lambda: mlp(nn.Sigmoid, 2), sgd(), trained=400),
    *fresh_and_trained("mlp-sigmoid-3-adam", lambda: mlp(nn.Sigmoid, 3), adam(), trained=400),
    *fresh_and_trained("mlp-gelu-6", lambda: mlp(nn.GELU, 6), adam(), trained=400),
    *fresh_and_trained("mlp-silu-layernorm-6", lambda: mlp(nn.SiLU, 6, nn.LayerNorm), rmsprop()),
    *fresh_and_trained(
        "mlp-selu-10", lambda: initialised(mlp(nn.SELU, 10), lecun), adam(), trained=400
    ),
    *fresh_and_trained("rezero", rezero, adam(2e-3)),
    *fresh_and_trained("highway", highway, sgd(), trained=300),
    *fresh_and_trained("zero-head", zero_head, sgd()),
)
