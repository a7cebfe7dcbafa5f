"""Networks that do something else in eval() than in train()."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tests.zoo.subjects.datasets import chains, images, table
from tests.zoo.subjects.networks import Recurrent, convolutional, dense
from tests.zoo.subjects.optimizers import adam, sgd
from tests.zoo.subjects.pairs import Setup, pair
from tests.zoo.subjects.tasks import regress

SMALL = partial(images, 14)
NUMBERS = partial(table, "number")


def with_momentum(model: nn.Module, momentum: float) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = momentum
    return model


def norm_convolutions() -> nn.Module:
    return convolutional([16, 0, 16, 16], norm=True)


def norm_mlp() -> nn.Module:
    return dense(196, [64] * 3, norm=nn.BatchNorm1d)


class OnlyInTraining(nn.Module):
    """Standardises its inputs, in training alone or always."""

    def __init__(self, rest: nn.Module, *, always: bool) -> None:
        super().__init__()
        self.rest, self.always = rest, always

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.always:
            x = (x - 0.29) / 0.05
        return self.rest(x)  # type: ignore[no-any-return]


class Probabilities(nn.Module):
    """Returns probabilities in eval(), to be looked at; or logits always."""

    def __init__(self, rest: nn.Module, *, always_logits: bool) -> None:
        super().__init__()
        self.rest, self.always_logits = rest, always_logits

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.rest(x)
        return logits if self.training or self.always_logits else torch.softmax(logits, dim=1)


class Averaged(nn.Module):
    """Uses an average of its weights over the steps in eval() (Polyak, Juditsky 1992)."""

    def __init__(self, rest: nn.Module, decay: float) -> None:
        super().__init__()
        self.rest, self.decay = rest, decay
        for name, parameter in rest.named_parameters():
            self.register_buffer(name.replace(".", "_"), parameter.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        named = dict(self.rest.named_parameters())
        averages = {name: self.get_buffer(name.replace(".", "_")) for name in named}
        if not self.training:
            return torch.func.functional_call(self.rest, averages, (x,))  # type: ignore[no-any-return]
        for name, parameter in named.items():
            averages[name].lerp_(parameter.detach(), 1 - self.decay)
        return self.rest(x)  # type: ignore[no-any-return]


class OwnDropout(nn.Module):
    """Dropout written by hand, that does or does not divide by what is kept."""

    def __init__(self, *, divided: bool) -> None:
        super().__init__()
        self.divided = divided

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = 0.5
        return x * (torch.rand_like(x) < kept) / (kept if self.divided else 1)


def with_dropout(*, divided: bool) -> nn.Module:
    return nn.Sequential(
        *dense(12, [128], 128), OwnDropout(divided=divided), nn.ReLU(),
        nn.Linear(128, 128), OwnDropout(divided=divided), nn.ReLU(), nn.Linear(128, 1),
    )  # fmt: skip


def regression() -> nn.Module:
    return dense(12, [64] * 3, 1)


def classifier() -> nn.Module:
    return dense(196, [64] * 2)


def recurrent() -> nn.Module:
    return Recurrent(nn.GRU, 16, 48, 4, tokens=16)


PAIRS = (
    pair(
        "batch-norm-momentum-zero",
        "convolutional-batch-norm",
        "BatchNorm with a momentum of zero: its averages stay at 0 and 1",
        "GS603",
        Setup(lambda: with_momentum(norm_convolutions(), 0.0), sgd(), data=SMALL),
        Setup(norm_convolutions, sgd(), data=SMALL),
        trained=100,
    ),
    pair(
        "batch-norm-momentum-0.0001",
        "mlp-batch-norm",
        "BatchNorm with a momentum of 0.0001, as if it were the share kept",
        "GS603",
        Setup(lambda: with_momentum(norm_mlp(), 1e-4), adam(), data=SMALL),
        Setup(norm_mlp, adam(), data=SMALL),
        trained=100,
    ),
    pair(
        "averages-too-slow",
        "regression-averaged",
        "eval() uses averages of the weights that reach back 100,000 steps",
        "GS603",
        Setup(lambda: Averaged(regression(), 0.99999), adam(), regress, NUMBERS),
        Setup(lambda: Averaged(regression(), 0.9), adam(), regress, NUMBERS),
        trained=150,
    ),
    pair(
        "standardised-only-in-training",
        "mlp-standardised",
        "inputs standardised in train() and not in eval()",
        "GS603",
        Setup(lambda: OnlyInTraining(classifier(), always=False), adam(), data=SMALL),
        Setup(lambda: OnlyInTraining(classifier(), always=True), adam(), data=SMALL),
        trained=100,
    ),
    pair(
        "probabilities-in-eval",
        "gru-tokens",
        "softmax on the output in eval(), before a loss on logits",
        "GS603",
        Setup(lambda: Probabilities(recurrent(), always_logits=False), adam(5e-3), data=chains),
        Setup(lambda: Probabilities(recurrent(), always_logits=True), adam(5e-3), data=chains),
        trained=150,
    ),
    pair(
        "dropout-not-divided",
        "regression-dropout",
        "dropout by hand that does not divide by the share kept",
        "GS603",
        Setup(lambda: with_dropout(divided=False), adam(), regress, NUMBERS),
        Setup(lambda: with_dropout(divided=True), adam(), regress, NUMBERS),
        trained=200,
    ),
)

CASES = [entry.case for entry in PAIRS]
