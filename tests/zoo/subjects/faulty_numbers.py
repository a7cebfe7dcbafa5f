"""NaN, infinity, and what float16 cannot hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.subjects.datasets import images, sentences, table
from tests.zoo.subjects.networks import (
    Block,
    CausalModel,
    SelfAttention,
    autoencoder,
    convolutional,
    dense,
)
from tests.zoo.subjects.optimizers import adam, sgd
from tests.zoo.subjects.pairs import Setup, pair
from tests.zoo.subjects.tasks import regress

SMALL = partial(images, 14)
NUMBERS = partial(table, "number")
CLASSES = partial(table, "class")


# --- Data -------------------------------------------------------------------------------------


class Missing:
    """A table in which one value in a thousand is missing."""

    def __init__(self, data: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self.data():
            inputs = inputs.clone()
            inputs.view(-1)[::997] = math.nan
            yield inputs, targets


class Standardised:
    """A table standardised by its batches; one column is constant."""

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in NUMBERS():
            inputs = inputs.clone()
            inputs[:, 3] = 1.0
            inputs = (inputs - inputs.mean(dim=0)) / (inputs.std(dim=0) + self.epsilon)
            yield inputs, targets


# --- Losses -----------------------------------------------------------------------------------


def mean_log(model: nn.Module, batch: tuple[Tensor, Tensor], *, epsilon: float) -> Tensor:
    """Binary cross-entropy by hand, on pictures that are exactly black in places."""
    made, picture = model(batch[0]), batch[0].flatten(1)
    divergence = picture * torch.log(picture / (made + epsilon) + epsilon)
    return (divergence - picture + made).mean()


def distances(model: nn.Module, batch: tuple[Tensor, Tensor], *, epsilon: float) -> Tensor:
    """The distance between each embedding and that of its neighbour, itself for one of them."""
    hidden = model(batch[0])
    near = torch.sqrt((hidden[:, None] - hidden[None]).square().sum(dim=2) + epsilon)
    alike = (batch[1][:, None] == batch[1][None]).float()
    return (alike * near + (1 - alike) * torch.relu(2 - near)).mean()


def own_entropy(model: nn.Module, batch: tuple[Tensor, Tensor], *, stable: bool) -> Tensor:
    """Cross-entropy with a softmax by hand, on logits around 100, which changes no probability."""
    logits = 100 + model(batch[0])
    if stable:
        return functional.cross_entropy(logits, batch[1])
    powers = torch.exp(logits)
    chosen = powers.gather(1, batch[1][:, None]).squeeze(1)
    return -torch.log(chosen / powers.sum(dim=1)).mean()


# --- Networks ---------------------------------------------------------------------------------


class Where(nn.Module):
    """A root where there is one; the gradient of the other side is NaN times zero."""

    def __init__(self, *, safe: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 64)
        self.rest = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        self.safe = safe

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        root = torch.sqrt(torch.where(x > 0, x, 1.0) if self.safe else x)
        return self.rest(torch.where(x > 0, root, 0.0))  # type: ignore[no-any-return]


class Masked(nn.Module):
    """Attention over a picture's rows, of which black ones are masked out."""

    def __init__(self, *, rows: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(14, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, 10)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1)
        black = x.amax(dim=2) < 0.1
        hidden = self.embed(x)
        scores = self.query(hidden) @ self.key(hidden).mT / 32**0.5
        closed = black[:, None, :].expand_as(scores)
        if self.rows:
            # Black rows may look at nothing at all.
            closed = closed | black[:, :, None]
        scores = scores.masked_fill(closed, -math.inf)
        return self.head((torch.softmax(scores, dim=2) @ self.value(hidden)).mean(dim=1))  # type: ignore[no-any-return]


class UnitLength(nn.Module):
    """Hidden vectors of unit length; a ReLU can leave nothing to divide."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.norm(dim=1, keepdim=True) + self.epsilon)


def unit_length(epsilon: float) -> nn.Module:
    return nn.Sequential(*dense(196, [64], 3), nn.ReLU(), UnitLength(epsilon), nn.Linear(3, 10))


def half(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: build().half()


def classify_half(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0].half()).float(), batch[1])


ACCUMULATED = 512
"""Over so many batches gradients are accumulated, so that each loss is divided by it."""


def predict_part(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    made = model(batch[0]).float()
    return functional.cross_entropy(made.flatten(0, 1), batch[1].flatten()) / ACCUMULATED


def reconstruct_weighted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The reconstruction counts a two-hundredth beside other losses, which are left out here."""
    kind = next(model.parameters()).dtype
    return 0.005 * functional.mse_loss(model(batch[0].to(kind)).float(), batch[0].flatten(1))


def classify_part(model: nn.Module, batch: tuple[Tensor, Tensor], *, short: bool) -> Tensor:
    with torch.autocast("cpu", dtype=torch.float16, enabled=short):
        made = model(batch[0])
    return functional.cross_entropy(made.float(), batch[1]) / ACCUMULATED


class Salaries:
    """A table with a column of yearly salaries, up to 100,000."""

    def __init__(self, *, standardised: bool) -> None:
        self.standardised = standardised

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in CLASSES():
            if not self.standardised:
                inputs = torch.cat([4e4 + 1.5e4 * inputs[:, :1], inputs[:, 1:]], dim=1)
            yield inputs, targets


def table_half() -> nn.Module:
    return dense(12, [64] * 3, 4).half()


def language_model() -> nn.Module:
    return CausalModel([Block(SelfAttention(32, 2, causal=True), 32) for _ in range(2)], 32)


def judged_autoencoder() -> nn.Module:
    return autoencoder([96, 24], nn.ReLU, nn.ReLU)


PAIRS = (
    # --- Not finite ---
    pair(
        "log-of-zero",
        "autoencoder-relu",
        "a logarithm of pixels that are exactly zero",
        "GS401",
        Setup(judged_autoencoder, adam(), partial(mean_log, epsilon=0.0)),
        Setup(judged_autoencoder, adam(), partial(mean_log, epsilon=1e-2)),
        may="GS503",
    ),
    pair(
        "root-of-zero",
        "embedding-distances",
        "the root of a distance of zero, whose derivative is infinite",
        "GS401",
        Setup(lambda: dense(196, [64], 16), adam(), partial(distances, epsilon=0.0), SMALL),
        Setup(lambda: dense(196, [64], 16), adam(), partial(distances, epsilon=1e-6), SMALL),
        may="GS503",
    ),
    pair(
        "root-behind-where",
        "regression-where",
        "roots of negative numbers in the branch that where() does not choose",
        "GS401",
        Setup(lambda: Where(safe=False), adam(), regress, NUMBERS),
        Setup(lambda: Where(safe=True), adam(), regress, NUMBERS),
        may="GS103 GS203 GS204 GS205 GS703",
    ),
    pair(
        "constant-feature-standardised",
        "regression-relu",
        "a constant column divided by its standard deviation",
        "GS401",
        Setup(lambda: dense(12, [64] * 3, 1), adam(), regress, partial(Standardised, 0.0)),
        Setup(lambda: dense(12, [64] * 3, 1), adam(), regress, partial(Standardised, 1e-6)),
        may="GS503",
    ),
    pair(
        "missing-values",
        "table-dense",
        "missing values, read as NaN",
        "GS401",
        Setup(lambda: dense(12, [64] * 3, 4), adam(), data=partial(Missing, CLASSES)),
        Setup(lambda: dense(12, [64] * 3, 4), adam(), data=CLASSES),
        may="GS503",
    ),
    pair(
        "rows-all-masked",
        "attention-masked",
        "rows of attention scores that are minus infinity throughout",
        "GS401",
        Setup(lambda: Masked(rows=True), adam(), data=SMALL),
        Setup(lambda: Masked(rows=False), adam(), data=SMALL),
        may="GS503",
    ),
    pair(
        "vector-of-length-zero",
        "mlp-unit-length",
        "vectors of zeros divided by their length",
        "GS401",
        Setup(lambda: unit_length(0.0), adam(), data=SMALL),
        Setup(lambda: unit_length(1e-3), adam(), data=SMALL),
        may="GS503",
    ),
    pair(
        "exponential-overflows",
        "mlp-own-softmax",
        "a softmax by hand, without taking off the largest logit",
        "GS401",
        Setup(lambda: dense(196, [64, 64]), adam(), partial(own_entropy, stable=False), SMALL),
        Setup(lambda: dense(196, [64, 64]), adam(), partial(own_entropy, stable=True), SMALL),
        may="GS503",
    ),
    # --- float16 ---
    pair(
        "language-model-float16",
        "language-model-float16",
        "float16 without loss scaling, and losses divided for accumulation",
        "GS402",
        Setup(half(language_model), sgd(25.0), predict_part, sentences),
        Setup(language_model, sgd(25.0), predict_part, sentences),
    ),
    pair(
        "autoencoder-float16",
        "autoencoder-float16",
        "float16 without loss scaling, under a loss that counts a two-hundredth",
        "GS402",
        Setup(
            half(lambda: autoencoder([96, 24], nn.ReLU)),
            sgd(1000.0),
            reconstruct_weighted,
            partial(images, 28, 128),
        ),
        Setup(
            lambda: autoencoder([96, 24], nn.ReLU),
            sgd(1000.0),
            reconstruct_weighted,
            partial(images, 28, 128),
        ),
        may="GS101 GS103 GS301",
    ),
    pair(
        "convolutions-autocast-float16",
        "convolutional-autocast",
        "autocast to float16 without GradScaler, and losses divided for accumulation",
        "GS402",
        Setup(
            lambda: convolutional([12, 0, 12]), adam(), partial(classify_part, short=True), SMALL
        ),
        Setup(
            lambda: convolutional([12, 0, 12]), adam(), partial(classify_part, short=False), SMALL
        ),
    ),
    pair(
        "salaries-float16",
        "mlp-float16",
        "salaries as float16, whose largest number is 65504",
        "GS701",
        Setup(table_half, sgd(), classify_half, partial(Salaries, standardised=False)),
        Setup(lambda: dense(12, [64] * 3, 4), sgd(), data=partial(Salaries, standardised=True)),
        must="GS401",
        may="GS402 GS503",
    ),
    pair(
        "adam-float16",
        "mlp-float16",
        "float16 under Adam, whose squared gradients and eps are zero in it",
        "GS402",
        Setup(table_half, adam(), classify_half, partial(table, "class", 12, 512)),
        Setup(lambda: dense(12, [64] * 3, 4), adam(), data=partial(table, "class", 12, 512)),
        must="GS401",
        may="GS104 GS503",
    ),
)

CASES = [entry.case for entry in PAIRS]
