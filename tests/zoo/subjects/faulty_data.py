"""Data as nobody should feed them: not scaled, or with a corrupt batch in the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.subjects.datasets import images, table
from tests.zoo.subjects.networks import (
    PIXELS,
    Recurrent,
    autoencoder,
    convolutional,
    dense,
)
from tests.zoo.subjects.optimizers import adam, sgd
from tests.zoo.subjects.pairs import Setup, pair
from tests.zoo.subjects.tasks import reconstruct, regress

SMALL = partial(images, 14)
NUMBERS = partial(table, "number")
CLASSES = partial(table, "class")

Source = Callable[[], Iterable[tuple[Tensor, Tensor]]]

CORRUPT = 6
"""The batch of the stream in which something is wrong."""


class Changed:
    """Batches with a function on their inputs."""

    def __init__(self, data: Source, change: Callable[[Tensor], Tensor]) -> None:
        self.data, self.change = data, change

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self.data():
            yield self.change(inputs), targets


class OneCorrupt:
    """Batches of which one has its inputs or targets multiplied."""

    def __init__(self, data: Source, *, inputs: float = 1.0, targets: float = 1.0) -> None:
        self.data, self.inputs, self.targets = data, inputs, targets

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (inputs, targets) in enumerate(self.data()):
            if number != CORRUPT:
                yield inputs, targets
            elif self.targets == 1.0:
                yield inputs * self.inputs, targets
            else:
                yield inputs, targets * self.targets


def changed(data: Source, change: Callable[[Tensor], Tensor]) -> Callable[[], Changed]:
    return partial(Changed, data, change)


def bytes_of(x: Tensor) -> Tensor:
    """Pixels as they are stored, 0 to 255."""
    return 255 * x


def divided_again(x: Tensor) -> Tensor:
    """Pixels divided by 255 once more than they should be, and once again by a transform."""
    return x / 255 / 255


def year_and_share(x: Tensor) -> Tensor:
    """A column of years, one of salaries, the others shares of a thousandth."""
    columns = [2000 + 10 * x[:, :1], 4e4 + 1e4 * x[:, 1:2], 1e-3 * x[:, 2:]]
    return torch.cat(columns, dim=1)


def kelvin(x: Tensor) -> Tensor:
    return 290 + 5 * x


def decibels(x: Tensor) -> Tensor:
    """A spectrogram: bins in time and frequency from -80 dB to 0."""
    return 80 * (x - 1)


def volts(x: Tensor) -> Tensor:
    """Readings of microvolts, in volts."""
    return 1e-6 * x


def tanh_mlp() -> nn.Module:
    return dense(PIXELS, [96] * 3, activation=nn.Tanh)


def convolutions() -> nn.Module:
    return convolutional([16, 16, 0, 16])


class Variational(nn.Module):
    """A variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = dense(196, [64], 32)
        self.decoder = dense(16, [64], 196)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        code = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return self.decoder(code), mean, log_variance


def evidence_bound(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    made, mean, log_variance = model(batch[0])
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)
    error = (made - batch[0].flatten(1)).square().sum(dim=1)
    return (error + divergence).mean() / 196


class Adversaries(nn.Module):
    """A generator of pictures and its judge."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = dense(196, [64], 1, partial(nn.LeakyReLU, 0.2))
        self.generator = nn.Sequential(
            nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 196), nn.Sigmoid()
        )


def play(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(model, Adversaries)
    real = batch[0].flatten(1)
    judged = model.judge(real)
    made = model.generator(torch.randn(len(real), 16))
    judged = torch.cat([judged, model.judge(made.detach())])
    truth = torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)])
    frozen = {name: weight.detach() for name, weight in model.judge.named_parameters()}
    fooled = torch.func.functional_call(model.judge, frozen, (made,))
    logits = functional.binary_cross_entropy_with_logits
    return logits(judged, truth) + logits(fooled, torch.ones(len(real), 1))


def regression() -> nn.Module:
    return dense(12, [64] * 3, 1)


def rows() -> nn.Module:
    return Recurrent(nn.GRU)


PAIRS = (
    # --- One corrupt batch ---
    pair(
        "mlp-one-batch-times-1000",
        "mlp-relu-4",
        "one batch with inputs a thousand times too large",
        "GS104",
        Setup(
            lambda: dense(PIXELS, [96] * 4),
            adam(),
            data=partial(OneCorrupt, images, inputs=1000.0),
            validation=images,
        ),
        Setup(lambda: dense(PIXELS, [96] * 4), adam()),
        steps=12,
    ),
    pair(
        "regression-one-batch-of-targets",
        "regression-relu",
        "one batch with targets a thousand times too large",
        "GS104",
        Setup(regression, adam(), regress, partial(OneCorrupt, NUMBERS, targets=1000.0), NUMBERS),
        Setup(regression, adam(), regress, NUMBERS),
        steps=12,
    ),
    pair(
        "convolutions-one-batch-of-bytes",
        "convolutional-3",
        "one batch whose pixels were not divided by 255",
        "GS104",
        Setup(
            convolutions, sgd(0.01), data=partial(OneCorrupt, SMALL, inputs=255.0), validation=SMALL
        ),
        Setup(convolutions, sgd(0.01), data=SMALL),
        steps=12,
    ),
    pair(
        "linear-one-batch-of-targets",
        "regression-linear",
        "one batch with targets a thousand times too large",
        "GS104",
        Setup(
            lambda: nn.Linear(12, 1),
            sgd(0.02),
            regress,
            partial(OneCorrupt, NUMBERS, targets=1000.0),
            NUMBERS,
        ),
        Setup(lambda: nn.Linear(12, 1), sgd(0.02), regress, NUMBERS),
        may="GS301 GS503",
        steps=20,
    ),
    pair(
        "autoencoder-one-batch-of-bytes",
        "autoencoder-tanh",
        "one batch whose pixels were not divided by 255",
        "GS104",
        Setup(
            lambda: autoencoder([96, 24], nn.Tanh, nn.Identity),
            adam(),
            reconstruct,
            partial(OneCorrupt, images, inputs=255.0),
            images,
        ),
        Setup(lambda: autoencoder([96, 24], nn.Tanh, nn.Identity), adam(), reconstruct),
        steps=12,
    ),
    # --- Not scaled ---
    pair(
        "tanh-bytes",
        "mlp-tanh-3",
        "pixels from 0 to 255",
        "GS701",
        Setup(tanh_mlp, sgd(), data=changed(images, bytes_of)),
        Setup(tanh_mlp, sgd()),
        must="GS202",
    ),
    pair(
        "convolutions-bytes",
        "convolutional-3",
        "pixels from 0 to 255",
        "GS701",
        Setup(convolutions, sgd(0.1), data=changed(SMALL, bytes_of)),
        Setup(convolutions, sgd(0.1), data=SMALL),
        may="GS101 GS104 GS203 GS205 GS301 GS503 GS504",
    ),
    pair(
        "variational-autoencoder-bytes",
        "variational-autoencoder",
        "pixels from 0 to 255",
        "GS701",
        Setup(Variational, adam(), evidence_bound, changed(SMALL, bytes_of)),
        Setup(Variational, adam(), evidence_bound, SMALL),
        may="GS102 GS104 GS206 GS304 GS401 GS402 GS503",
    ),
    pair(
        "gan-bytes",
        "gan",
        "real pixels from 0 to 255, made ones from 0 to 1",
        "GS701",
        Setup(Adversaries, adam(), play, changed(SMALL, bytes_of)),
        Setup(Adversaries, adam(), play, SMALL),
        may="GS101 GS104",
    ),
    pair(
        "table-years-and-shares",
        "table-dense",
        "years, salaries and shares in one table, as they come",
        "GS701",
        Setup(lambda: dense(12, [64] * 3, 4), adam(), data=changed(CLASSES, year_and_share)),
        Setup(lambda: dense(12, [64] * 3, 4), adam(), data=CLASSES),
        may="GS201 GS203 GS205 GS504",
    ),
    pair(
        "regression-kelvin",
        "regression-linear",
        "temperatures in Kelvin, whose changes are a sixtieth of their size",
        "GS701",
        Setup(lambda: nn.Linear(12, 1), adam(0.01), regress, changed(NUMBERS, kelvin)),
        Setup(lambda: nn.Linear(12, 1), adam(0.01), regress, NUMBERS),
    ),
    pair(
        "spectrogram-decibels",
        "gru-rows",
        "a spectrogram in decibels, from -80 to 0",
        "GS701",
        Setup(rows, adam(), data=changed(images, decibels)),
        Setup(rows, adam()),
    ),
    pair(
        "mlp-divided-again",
        "mlp-relu-3",
        "pixels divided by 255 by each of three transforms",
        "GS701",
        Setup(lambda: dense(PIXELS, [96] * 3), sgd(), data=changed(images, divided_again)),
        Setup(lambda: dense(PIXELS, [96] * 3), sgd()),
        may="GS201 GS203 GS204 GS205 GS301",
    ),
    pair(
        "regression-volts",
        "regression-relu",
        "microvolts given in volts",
        "GS701",
        Setup(regression, adam(), regress, changed(NUMBERS, volts)),
        Setup(regression, adam(), regress, NUMBERS),
        may="GS201 GS203 GS204 GS205 GS703",
    ),
)

CASES = [entry.case for entry in PAIRS]
