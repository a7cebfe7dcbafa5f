"""Outputs that do not suit the loss or the targets, that never vary, or that start far off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.subjects.datasets import chains, images, sentences, table
from tests.zoo.subjects.networks import (
    PIXELS,
    Apply,
    Block,
    Encoder,
    Recurrent,
    SelfAttention,
    convolutional,
    dense,
)
from tests.zoo.subjects.optimizers import adam, sgd
from tests.zoo.subjects.pairs import Setup, pair
from tests.zoo.subjects.tasks import predict_tokens, regress

SMALL = partial(images, 14)
NUMBERS = partial(table, "number")
LABELS = partial(table, "labels")


def then(build: Callable[[], nn.Module], last: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The model with one more layer behind its output."""
    return lambda: nn.Sequential(build(), last())


# --- Networks ---------------------------------------------------------------------------------


def mlp() -> nn.Module:
    return dense(PIXELS, [96] * 3)


def convolutions() -> nn.Module:
    return convolutional([16, 16, 0, 16])


def regression() -> nn.Module:
    return dense(12, [64] * 3, 1)


def recurrent() -> nn.Module:
    return Recurrent(nn.LSTM, 16, 48, 4, tokens=16, mean=True)


def labelling() -> nn.Module:
    return dense(12, [64] * 2, 5)


def encoder(*, keep_input: bool = True) -> nn.Module:
    model = Encoder([Block(SelfAttention(32, 2), 32) for _ in range(2)], 32)
    return model if keep_input else nn.Sequential(Apply(torch.ones_like), model)


class Tied(nn.Module):
    """A language model whose head is the embedding, drawn from N(0, std)."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(28, 256)
        nn.init.normal_(self.embed.weight, std=std)
        self.blocks = nn.Sequential(Block(SelfAttention(256, 4, causal=True), 256))
        self.norm = nn.LayerNorm(256)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.embed(x))) @ self.embed.weight.T  # type: ignore[no-any-return]


class Pictures(nn.Module):
    """Convolutions whose positions are summed or averaged before the head."""

    def __init__(self, *, mean: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*list(convolutional([24, 24]))[:-3])
        nn.init.kaiming_normal_(self.trunk[2].weight)  # type: ignore[arg-type]
        self.head = nn.Linear(24, 10)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x).flatten(2)
        return self.head(x.mean(dim=2) if self.mean else x.sum(dim=2))  # type: ignore[no-any-return]


class Pooled(nn.Module):
    """Outputs averaged over the batch, which comes first, instead of over positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(12, 64), nn.ReLU())
        self.head = nn.Linear(64, 1)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.head(self.layer(x)[:, None])
        return (
            hidden.mean(dim=self.dim, keepdim=True).expand(len(x), 1, 1).flatten(1)
            if self.dim == 0
            else hidden.mean(dim=1)
        )


class Cosines(nn.Module):
    """The cosine between an embedding and that of each class, times 16 (Wang et al. 2018)."""

    def __init__(self, *, unit: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*dense(196, [96], 48), nn.LayerNorm(48))
        self.classes = nn.Parameter(torch.randn(10, 48) / 48**0.5)
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        hidden, classes = self.trunk(x), self.classes
        if self.unit:
            hidden, classes = (functional.normalize(each, dim=1) for each in (hidden, classes))
        return 16 * hidden @ classes.T  # type: ignore[no-any-return]


# --- Losses -----------------------------------------------------------------------------------


def negative_likelihood(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.nll_loss(model(batch[0]), batch[1])


def label_by_label(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def yes_or_no(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Whether the picture shows a shoe, by the probability of it."""
    shoe = ((batch[1] == 5) | (batch[1] == 7) | (batch[1] == 9)).float()[:, None]
    return functional.binary_cross_entropy(model(batch[0]), shoe)


def one_class(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The same question put to cross_entropy, with one logit."""
    shoe = ((batch[1] == 5) | (batch[1] == 7) | (batch[1] == 9)).float()[:, None]
    return functional.cross_entropy(model(batch[0]), shoe)


def yes_or_no_logits(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    shoe = ((batch[1] == 5) | (batch[1] == 7) | (batch[1] == 9)).float()[:, None]
    return functional.binary_cross_entropy_with_logits(model(batch[0]), shoe)


class Prices:
    """Targets in the hundreds, or standardised."""

    def __init__(self, *, standardised: bool) -> None:
        self.standardised = standardised

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, targets in NUMBERS():
            yield rows, targets if self.standardised else 10 + 3 * targets


SOFTMAX = partial(nn.Softmax, dim=1)
LOG_SOFTMAX = partial(nn.LogSoftmax, dim=1)

MLP = Setup(mlp, sgd())
CONVOLUTIONS = Setup(convolutions, adam(), data=SMALL)
REGRESSION = Setup(regression, adam(), regress, NUMBERS)
LSTM = Setup(recurrent, adam(5e-3), data=chains)
SHOES = partial(dense, 196, [64] * 2, 1)

PAIRS = (
    # --- Output and loss do not match ---
    pair(
        "softmax-before-cross-entropy",
        "mlp-relu-3",
        "softmax before cross_entropy, which takes logits",
        "GS702",
        Setup(then(mlp, SOFTMAX), sgd()),
        MLP,
    ),
    pair(
        "lstm-softmax-before-cross-entropy",
        "lstm-tokens",
        "softmax before cross_entropy, which takes logits",
        "GS702",
        Setup(then(recurrent, SOFTMAX), adam(5e-3), data=chains),
        LSTM,
    ),
    pair(
        "softmax-before-nll",
        "convolutional-3",
        "softmax before nll_loss, which takes logarithms",
        "GS702",
        Setup(then(convolutions, SOFTMAX), adam(), negative_likelihood, SMALL),
        Setup(then(convolutions, LOG_SOFTMAX), adam(), negative_likelihood, SMALL),
    ),
    pair(
        "logits-before-nll",
        "mlp-relu-3",
        "logits given to nll_loss, which takes logarithms of probabilities",
        "GS702",
        Setup(mlp, sgd(), negative_likelihood),
        MLP,
    ),
    pair(
        "sigmoid-before-logits",
        "table-labels",
        "sigmoid before binary_cross_entropy_with_logits",
        "GS702",
        Setup(then(labelling, nn.Sigmoid), adam(), label_by_label, LABELS),
        Setup(labelling, adam(), label_by_label, LABELS),
    ),
    pair(
        "softmax-over-one-unit",
        "mlp-one-logit",
        "softmax over the one unit of a yes-or-no output: it always says 1",
        "GS702",
        Setup(then(SHOES, SOFTMAX), adam(), yes_or_no, SMALL),
        Setup(then(SHOES, nn.Sigmoid), adam(), yes_or_no, SMALL),
        may="GS101 GS103 GS301 GS504 GS703",
    ),
    pair(
        "cross-entropy-over-one-class",
        "mlp-one-logit",
        "cross_entropy with one logit: the loss is zero whatever it says",
        "GS702",
        Setup(SHOES, adam(), one_class, SMALL),
        Setup(SHOES, adam(), yes_or_no_logits, SMALL),
        may="GS101 GS103 GS301",
    ),
    pair(
        "relu-output-for-negative-targets",
        "regression-dense",
        "a ReLU behind the output; half the targets are negative",
        "GS702",
        Setup(then(regression, nn.ReLU), adam(), regress, NUMBERS),
        REGRESSION,
        may="GS101 GS103 GS201 GS206 GS703",
    ),
    pair(
        "sigmoid-output-for-prices",
        "regression-relu",
        "a sigmoid behind the output; the targets lie around 10",
        "GS702",
        Setup(then(regression, nn.Sigmoid), adam(), regress, partial(Prices, standardised=False)),
        Setup(regression, adam(), regress, partial(Prices, standardised=True)),
    ),
    pair(
        "tanh-output-for-ages",
        "convolutional-regression",
        "a tanh behind the output; the targets are ages up to 90",
        "GS702",
        Setup(
            lambda: nn.Sequential(convolutional([12, 0, 12], outputs=1), nn.Tanh()),
            adam(),
            lambda model, batch: functional.mse_loss(
                model(batch[0]).squeeze(1), 10.0 * batch[1].float()
            ),
            SMALL,
        ),
        Setup(
            lambda: convolutional([12, 0, 12], outputs=1),
            adam(),
            lambda model, batch: functional.mse_loss(
                model(batch[0]).squeeze(1), 0.1 * batch[1].float()
            ),
            SMALL,
        ),
    ),
    # --- Constant outputs ---
    pair(
        "layer-norm-over-one-unit",
        "regression-norm-output",
        "LayerNorm over the one unit of the output: it is its bias",
        "GS703",
        Setup(then(regression, partial(nn.LayerNorm, 1)), adam(), regress, NUMBERS),
        REGRESSION,
        may="GS206",
    ),
    pair(
        "mean-over-the-batch",
        "regression-pooled",
        "the mean over the batch instead of over positions",
        "GS703",
        Setup(lambda: Pooled(0), adam(), regress, NUMBERS),
        Setup(lambda: Pooled(1), adam(), regress, NUMBERS),
    ),
    pair(
        "outputs-clipped",
        "regression-dense",
        "outputs clipped to the range of other targets, from 5 to 10",
        "GS702",
        Setup(
            then(regression, lambda: Apply(lambda x: x.clamp(5.0, 10.0))), adam(), regress, NUMBERS
        ),
        REGRESSION,
        must="GS703",
        may="GS101 GS103 GS301",
    ),
    pair(
        "unit-length-over-one-unit",
        "convolutional-regression",
        "softplus outputs scaled to unit length over one unit: they are all 1",
        "GS703",
        Setup(
            lambda: nn.Sequential(
                convolutional([12, 0, 12], outputs=1),
                nn.Softplus(),
                Apply(partial(functional.normalize, dim=1)),
            ),
            adam(),
            lambda model, batch: functional.mse_loss(
                model(batch[0]).squeeze(1), 0.1 * batch[1].float()
            ),
            SMALL,
        ),
        Setup(
            lambda: convolutional([12, 0, 12], outputs=1),
            adam(),
            lambda model, batch: functional.mse_loss(
                model(batch[0]).squeeze(1), 0.1 * batch[1].float()
            ),
            SMALL,
        ),
    ),
    pair(
        "input-overwritten",
        "encoder-rows",
        "the input is overwritten by a mask of ones",
        "GS204",
        Setup(lambda: encoder(keep_input=False), adam()),
        Setup(encoder, adam()),
        must="GS703",
        may="GS205",
        wants_author=True,
    ),
    # --- Initial loss ---
    pair(
        "logits-times-1000",
        "mlp-relu-4",
        "logits divided by a temperature of 0.001",
        "GS504",
        Setup(lambda: nn.Sequential(*dense(PIXELS, [96] * 4), Apply(lambda x: 1000 * x)), adam()),
        Setup(lambda: dense(PIXELS, [96] * 4), adam()),
        may="GS502",
    ),
    pair(
        "embedding-tied-to-head",
        "language-model-tied",
        "the embedding, drawn from N(0, 1), is the head too",
        # As a head of 256 inputs it is eleven times He's size.
        "GS303",
        Setup(lambda: Tied(1.0), adam(), predict_tokens, sentences),
        Setup(lambda: Tied(0.05), adam(), predict_tokens, sentences),
        must="GS504",
    ),
    pair(
        "positions-summed",
        "convolutional-summed",
        "positions summed instead of averaged before the head",
        "GS504",
        Setup(lambda: Pictures(mean=False), adam(1e-2), data=SMALL),
        Setup(lambda: Pictures(mean=True), adam(1e-2), data=SMALL),
    ),
    pair(
        "cosines-without-unit-length",
        "metric-learning",
        "cosines times 16, of vectors that were not scaled to unit length",
        "GS504",
        Setup(lambda: Cosines(unit=False), adam(), data=SMALL),
        Setup(lambda: Cosines(unit=True), adam(), data=SMALL),
    ),
)

CASES = [entry.case for entry in PAIRS]
