"""Units that are dead, saturated or dormant."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.zoo.subjects.datasets import images, sentences, table
from tests.zoo.subjects.healthy_dense import Highway
from tests.zoo.subjects.networks import (
    PIXELS,
    Apply,
    Block,
    CausalModel,
    Encoder,
    SelfAttention,
    autoencoder,
    convolutional,
    dense,
    with_biases,
)
from tests.zoo.subjects.optimizers import adam, sgd
from tests.zoo.subjects.pairs import Setup, pair
from tests.zoo.subjects.tasks import predict_tokens, reconstruct, regress

SMALL = partial(images, 14)
NUMBERS = partial(table, "number")


def mlp() -> nn.Module:
    return dense(PIXELS, [96] * 4)


def convolutions() -> nn.Module:
    return convolutional([16, 0, 16, 16])


def small_autoencoder() -> nn.Module:
    return autoencoder([96, 24], nn.ReLU)


def tanh_mlp() -> nn.Module:
    return dense(PIXELS, [64] * 4, activation=nn.Tanh)


def feed_forwards(activation: type[nn.Module], bias: float | None = None) -> list[nn.Module]:
    """Blocks of a transformer, the first layers of their feed-forward parts with some bias."""
    blocks = [Block(SelfAttention(48, 4, causal=True), 48, activation) for _ in range(3)]
    for block in blocks:
        first = block.feed[0]
        assert isinstance(first, nn.Linear)
        if bias is not None:
            nn.init.constant_(first.bias, bias)
    return list(blocks)


def without_skips(bias: float | None) -> nn.Module:
    """The dead feed-forward parts of an encoder without skip connections around them."""
    blocks = []
    for _ in range(2):
        first = nn.Linear(32, 64)
        if bias is not None:
            nn.init.constant_(first.bias, bias)
        blocks.append(nn.Sequential(nn.LayerNorm(32), first, nn.ReLU(), nn.Linear(64, 32)))
    return Encoder([SelfAttention(32, 2), *blocks], 32)


def highway(bias: float) -> nn.Module:
    blocks = [Highway(64) for _ in range(8)]
    for block in blocks:
        nn.init.constant_(block.gate.bias, bias)
    return nn.Sequential(nn.Linear(12, 64), *blocks, nn.Linear(64, 2))


def hard_tanh(bound: float) -> nn.Module:
    return dense(PIXELS, [96] * 3, activation=partial(nn.Hardtanh, -bound, bound))


def steep(factor: float) -> nn.Module:
    """Sigmoids made so steep that they are steps, to have binary units."""

    def binary() -> nn.Module:
        return Apply(lambda x: torch.sigmoid(factor * (x + 0.5)))

    return nn.Sequential(nn.LayerNorm(12), *dense(12, [64] * 2, 1, binary))


def random_biases(model: nn.Module, std: float) -> nn.Module:
    """The model with random biases in all layers but the last."""
    for parameter in list(model.parameters())[:-2]:
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=std)
    return model


def pruned(amount: float) -> nn.Module:
    """A language model whose feed-forward parts have lost units, which the masks keep at zero."""
    blocks = feed_forwards(nn.GELU)
    for block in blocks:
        assert isinstance(block, Block)
        block.feed[0] = nn.Linear(48, 96, bias=False)
        if amount:
            prune.ln_structured(block.feed[0], "weight", amount, n=2, dim=0)
    return CausalModel(blocks, 48)


class Crossed:
    """A table, and whether its first two columns have the same sign: no linear map can tell."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, _ in NUMBERS():
            yield rows, (rows[:, 0] * rows[:, 1] > 0).long()


class Scaled:
    """Batches of a table whose targets are not standardised."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, targets in NUMBERS():
            yield rows, targets * self.factor


PAIRS = (
    # --- Dead ---
    pair(
        "mlp-biases-minus-5",
        "mlp-relu-4",
        "biases of minus five, meant for the last layer",
        "GS201",
        Setup(lambda: with_biases(mlp(), -5, (nn.Linear,)), sgd()),
        Setup(mlp, sgd()),
        may="GS101 GS103 GS203 GS204 GS205 GS206 GS301 GS703",
    ),
    pair(
        "convolutions-biases-minus-4",
        "convolutional-4",
        "biases of minus four (log of the odds of a rare class) in all layers",
        "GS201",
        Setup(lambda: with_biases(convolutions(), -4, (nn.Conv2d, nn.Linear)), adam(), data=SMALL),
        Setup(convolutions, adam(), data=SMALL),
        may="GS101 GS103 GS203 GS204 GS205 GS206 GS301 GS703",
    ),
    pair(
        "feed-forward-biases-minus-8",
        "encoder-feed-forward",
        "biases of minus eight in the feed-forward parts",
        "GS201",
        Setup(lambda: without_skips(-8), adam()),
        Setup(lambda: without_skips(None), adam()),
        may="GS101 GS103 GS203 GS204 GS205 GS206 GS301 GS703",
    ),
    pair(
        "language-model-feed-forward-dead",
        "language-model-relu",
        "biases of minus ten in the feed-forward parts",
        "GS201",
        Setup(
            lambda: CausalModel(feed_forwards(nn.ReLU, -10), 48), adam(), predict_tokens, sentences
        ),
        Setup(lambda: CausalModel(feed_forwards(nn.ReLU), 48), adam(), predict_tokens, sentences),
        may="GS103 GS203",
    ),
    pair(
        "autoencoder-code-dead",
        "autoencoder-relu",
        "a code of ReLU units that a bias of minus ten, for sparsity, has killed",
        "GS201",
        Setup(lambda: with_biases(small_autoencoder(), -10, (nn.Linear,)), adam(), reconstruct),
        Setup(small_autoencoder, adam(), reconstruct),
        may="GS101 GS103 GS203 GS204 GS205 GS206 GS301 GS703",
    ),
    pair(
        "mlp-killed-by-learning-rate",
        "mlp-relu-3-large-steps",
        "most units died in thirty steps of a learning rate of 0.5 with momentum",
        "GS201",
        Setup(lambda: dense(PIXELS, [96] * 3), sgd(0.5)),
        Setup(lambda: dense(PIXELS, [96] * 3), sgd()),
        may="GS203 GS205 GS301 GS503",
        trained=30,
    ),
    pair(
        "convolutions-killed-by-adam",
        "convolutional-4",
        "units died under Adam with a learning rate of 0.3",
        "GS201",
        Setup(convolutions, adam(0.3), data=SMALL),
        Setup(convolutions, adam(), data=SMALL),
        may="GS101 GS103 GS203 GS204 GS205 GS206 GS301 GS303 GS703",
        trained=30,
    ),
    pair(
        "regression-killed-by-targets",
        "regression-relu",
        "targets of the order of 20, whose first gradients killed half the units",
        "GS201",
        Setup(lambda: dense(12, [64] * 3, 1), sgd(0.01, 0), regress, partial(Scaled, 20.0)),
        Setup(lambda: dense(12, [64] * 3, 1), sgd(0.01, 0), regress, partial(Scaled, 1.0)),
        may="GS203 GS205",
        trained=60,
    ),
    # --- Saturated ---
    pair(
        "tanh-saturated-by-learning-rate",
        "mlp-tanh-4",
        "most units saturated in thirty steps of a learning rate of 0.5 with momentum",
        "GS202",
        Setup(tanh_mlp, sgd(0.5)),
        Setup(tanh_mlp, sgd()),
        may="GS205 GS301 GS502 GS503 GS504",
        trained=30,
    ),
    pair(
        "highway-gates-closed",
        "highway-8",
        "gates with a bias of minus ten, where minus two is meant",
        "GS202",
        Setup(lambda: highway(-10), adam(3e-3), data=Crossed),
        Setup(lambda: highway(-2), adam(3e-3), data=Crossed),
    ),
    pair(
        "hard-tanh-range",
        "mlp-hard-tanh",
        "activations clipped to a range of a thousandth",
        "GS202",
        Setup(lambda: hard_tanh(0.001), sgd()),
        Setup(lambda: hard_tanh(1.0), sgd()),
        may="GS205 GS301",
    ),
    pair(
        "steep-sigmoids",
        "regression-steep",
        "sigmoids of steepness 1000, to have binary units",
        "GS202",
        Setup(lambda: steep(1000), adam(), regress, NUMBERS),
        Setup(lambda: steep(1), adam(), regress, NUMBERS),
    ),
    # --- Dormant ---
    pair(
        "gelu-biases-normal-10",
        "mlp-gelu-3",
        "biases drawn from N(0, 10)",
        "GS203",
        Setup(lambda: random_biases(dense(PIXELS, [96] * 3, activation=nn.GELU), 10), adam()),
        Setup(lambda: dense(PIXELS, [96] * 3, activation=nn.GELU), adam()),
        may="GS205 GS504",
    ),
    pair(
        "silu-convolutions-biases-normal-30",
        "convolutional-silu",
        "biases drawn from N(0, 30)",
        "GS203",
        Setup(
            lambda: random_biases(convolutional([16, 0, 16, 16], nn.SiLU), 30),
            adam(),
            data=SMALL,
        ),
        Setup(lambda: convolutional([16, 0, 16, 16], nn.SiLU), adam(), data=SMALL),
        may="GS205 GS504",
    ),
    pair(
        "pruned-units-kept",
        "language-model-pruned",
        "nine of ten units pruned, and trained on under the masks",
        "GS203",
        Setup(lambda: pruned(0.9), adam(), predict_tokens, sentences),
        Setup(lambda: pruned(0), adam(), predict_tokens, sentences),
        wants_author=True,
    ),
    pair(
        "gelu-made-dormant-by-learning-rate",
        "mlp-gelu-5",
        "units went to sleep under Adam with a learning rate of 0.1",
        "GS203",
        Setup(lambda: dense(PIXELS, [96] * 5, activation=nn.GELU), adam(0.1)),
        Setup(lambda: dense(PIXELS, [96] * 5, activation=nn.GELU), adam()),
        may="GS101 GS103 GS204 GS205 GS206 GS301 GS303 GS503 GS703",
        trained=60,
    ),
)

CASES = [entry.case for entry in PAIRS]
