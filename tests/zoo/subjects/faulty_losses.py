"""Losses that stay where they are, or grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim

from tests.zoo.subjects.datasets import chains, images
from tests.zoo.subjects.faulty_updates import (
    AUTOENCODER,
    CONVOLUTIONS,
    LINEAR,
    LSTM,
    MLP,
    REGRESSION,
    TANH,
)
from tests.zoo.subjects.networks import PIXELS, dense
from tests.zoo.subjects.optimizers import BuildOptimizer, adam, sgd
from tests.zoo.subjects.pairs import Setup, pair

SMALL = partial(images, 14)


def accumulating(build: BuildOptimizer) -> BuildOptimizer:
    """zero_grad() is never called: each gradient comes on top of all before it."""

    def build_accumulating(parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        kept = list(parameters)
        totals = [torch.zeros_like(parameter) for parameter in kept]
        optimizer = build(kept)

        def add(*_: Any) -> None:
            for parameter, total in zip(kept, totals, strict=True):
                if parameter.grad is not None:
                    total += parameter.grad
                    parameter.grad.copy_(total)

        optimizer.register_step_pre_hook(add)
        return optimizer

    return build_accumulating


class Shuffled:
    """Inputs and targets of a batch, in different orders."""

    def __init__(self, data: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self.data():
            yield inputs, targets[torch.randperm(len(targets))]


PAIRS = (
    pair(
        "mlp-labels-shuffled",
        "mlp-relu-3",
        "labels shuffled apart from their pictures",
        "GS501",
        replace(MLP, data=partial(Shuffled, images)),
        MLP,
        steps=80,
        wants_author=True,
    ),
    pair(
        "lstm-labels-shuffled",
        "lstm-tokens",
        "labels shuffled apart from their sequences",
        "GS501",
        replace(LSTM, data=partial(Shuffled, chains)),
        LSTM,
        steps=60,
        wants_author=True,
    ),
    pair(
        "convolutions-labels-shuffled",
        "convolutional-3",
        "labels shuffled apart from their pictures",
        "GS501",
        replace(CONVOLUTIONS, data=partial(Shuffled, SMALL)),
        CONVOLUTIONS,
        steps=60,
        wants_author=True,
    ),
    pair(
        "tanh-rate-too-small-plateau",
        "mlp-tanh-3",
        "a learning rate of 1e-7: the loss stays at that of chance",
        "GS301",
        replace(TANH, optimizer=sgd(1e-7)),
        TANH,
        must="GS501",
        steps=60,
    ),
    pair(
        "sigmoid-plateau",
        "mlp-sigmoid-8",
        "eight sigmoid layers: the loss stays at that of chance",
        "GS204",
        Setup(lambda: dense(PIXELS, [64] * 8, activation=nn.Sigmoid), sgd()),
        Setup(lambda: dense(PIXELS, [64] * 8, activation=nn.ELU), sgd()),
        must="GS501",
        may="GS101 GS205 GS301 GS703",
        steps=80,
    ),
    pair(
        "mlp-gradients-accumulate",
        "mlp-relu-5",
        "zero_grad() is never called",
        "GS503",
        Setup(lambda: dense(PIXELS, [96] * 5), accumulating(sgd(0.1))),
        Setup(lambda: dense(PIXELS, [96] * 5), sgd(0.1)),
        may="GS104 GS301 GS401 GS502",
        steps=60,
        wants_author=True,
    ),
    pair(
        "regression-gradients-accumulate",
        "regression-linear",
        "zero_grad() is never called",
        # The sum of all gradients so far changes the weights by half their size at every step.
        "GS301",
        replace(LINEAR, optimizer=accumulating(sgd(0.05))),
        LINEAR,
        must="GS503",
        may="GS104 GS502",
        steps=40,
        wants_author=True,
    ),
    pair(
        "autoencoder-maximised",
        "autoencoder-relu",
        "the optimizer maximises the loss",
        "GS503",
        replace(AUTOENCODER, optimizer=adam(maximize=True)),
        AUTOENCODER,
        may="GS201 GS203",
        steps=40,
        wants_author=True,
    ),
    pair(
        "regression-maximised",
        "regression-dense",
        "the optimizer maximises the loss",
        "GS503",
        replace(REGRESSION, optimizer=sgd(0.02, maximize=True)),
        REGRESSION,
        may="GS104 GS205 GS301 GS401 GS502",
        steps=40,
        wants_author=True,
    ),
)

CASES = [entry.case for entry in PAIRS]
