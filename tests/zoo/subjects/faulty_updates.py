"""Learning rates far off, and optimizers that update the wrong thing or nothing."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from tests.zoo.subjects.datasets import chains, images, sentences, table
from tests.zoo.subjects.networks import (
    PIXELS,
    Block,
    CausalModel,
    Recurrent,
    SelfAttention,
    autoencoder,
    convolutional,
    dense,
)
from tests.zoo.subjects.optimizers import BuildOptimizer, adam, clipped, sgd
from tests.zoo.subjects.pairs import Setup, pair
from tests.zoo.subjects.tasks import predict_tokens, reconstruct, regress

SMALL = partial(images, 14)
NUMBERS = partial(table, "number")
LARGE_BATCHES = partial(table, "number", 12, 512)


# --- Optimizers, and what people do to them ---------------------------------------------------


def of_some(build: BuildOptimizer, chosen: slice) -> BuildOptimizer:
    """Only some of the parameters are given to the optimizer."""
    return lambda parameters: build(list(parameters)[chosen])


def of_copies(build: BuildOptimizer) -> BuildOptimizer:
    """The optimizer was made of a copy of the model, such as before it was moved or reloaded."""
    return lambda parameters: build([copy.deepcopy(parameter) for parameter in parameters])


# --- Networks ---------------------------------------------------------------------------------


def mlp() -> nn.Module:
    return dense(PIXELS, [96] * 3)


def tanh_mlp() -> nn.Module:
    return dense(PIXELS, [64] * 3, activation=nn.Tanh)


def convolutions() -> nn.Module:
    return convolutional([16, 16, 0, 16])


def norm_convolutions() -> nn.Module:
    return convolutional([16, 0, 16, 16], norm=True)


def language_model() -> nn.Module:
    return CausalModel([Block(SelfAttention(48, 4, causal=True), 48) for _ in range(2)], 48)


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM, 16, 48, 4, tokens=16, mean=True)


def gru() -> nn.Module:
    return Recurrent(nn.GRU, 16, 48, 4, tokens=16)


def regression() -> nn.Module:
    return dense(12, [64] * 3, 1)


def linear() -> nn.Module:
    return nn.Linear(12, 1)


def short_floats() -> nn.Module:
    return dense(PIXELS, [96] * 3).to(torch.bfloat16)


def classify_short(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])


MLP = Setup(mlp, sgd())
TANH = Setup(tanh_mlp, sgd())
CONVOLUTIONS = Setup(convolutions, adam(), data=SMALL)
NORM_CONVOLUTIONS = Setup(norm_convolutions, sgd(), data=SMALL)
LANGUAGE = Setup(language_model, adam(), predict_tokens, sentences)
LSTM = Setup(lstm, adam(5e-3), data=chains)
REGRESSION = Setup(regression, sgd(0.02), regress, NUMBERS)
LINEAR = Setup(linear, sgd(0.05, 0), regress, NUMBERS)
AUTOENCODER = Setup(lambda: autoencoder([96, 24], nn.ReLU), adam(), reconstruct)

PAIRS = (
    # --- Too large ---
    pair(
        "mlp-rate-times-100",
        "mlp-relu-3",
        "a learning rate of 5 under SGD with momentum",
        "GS301",
        Setup(mlp, sgd(5.0)),
        MLP,
        may="GS104 GS203 GS205 GS503",
    ),
    pair(
        "tanh-rate-times-1000",
        "mlp-tanh-3",
        "a learning rate of 50 under plain SGD",
        "GS301",
        Setup(tanh_mlp, sgd(50.0, 0)),
        TANH,
        may="GS101 GS202 GS204 GS205 GS503 GS703",
    ),
    pair(
        "convolutions-adam-times-1000",
        "convolutional-3",
        "a learning rate of 1 under Adam",
        "GS301",
        Setup(convolutions, adam(1.0), data=SMALL),
        CONVOLUTIONS,
        may="GS101 GS103 GS104 GS203 GS204 GS205 GS503 GS703",
    ),
    pair(
        "batch-norm-rate-times-1000",
        "convolutional-batch-norm",
        "a learning rate of 50 under SGD with momentum, which BatchNorm hides in the losses",
        "GS301",
        Setup(norm_convolutions, sgd(50.0), data=SMALL),
        NORM_CONVOLUTIONS,
        may="GS104 GS203 GS502 GS503 GS603",
    ),
    pair(
        "language-model-adam-times-100",
        "language-model-attention",
        "a learning rate of 0.3 under Adam",
        "GS301",
        Setup(language_model, adam(0.3), predict_tokens, sentences),
        LANGUAGE,
        may="GS205 GS502 GS503 GS601",
    ),
    pair(
        "lstm-adam-times-100",
        "lstm-tokens",
        "a learning rate of 0.5 under Adam",
        "GS301",
        Setup(lstm, adam(0.5), data=chains),
        LSTM,
        may="GS502 GS503",
    ),
    pair(
        "autoencoder-adam-times-300",
        "autoencoder-relu",
        "a learning rate of 0.3 under Adam",
        "GS301",
        Setup(lambda: autoencoder([96, 24], nn.ReLU), adam(0.3), reconstruct),
        AUTOENCODER,
        may="GS101 GS103 GS201 GS203 GS205 GS703",
    ),
    pair(
        "linear-beyond-the-edge",
        "regression-linear",
        "a learning rate three times beyond what the curvature allows",
        "GS301",
        Setup(linear, sgd(3.0, 0), regress, NUMBERS),
        LINEAR,
        must="GS503",
        may="GS104",
        steps=20,
    ),
    pair(
        "regression-oscillates",
        "regression-dense",
        "a learning rate just beyond the edge: the loss falls and jumps up again, without end",
        # At each jump the update is more than half as large as the weights.
        "GS301",
        Setup(lambda: dense(12, [64] * 2, 1), sgd(0.3, 0), regress, LARGE_BATCHES),
        Setup(lambda: dense(12, [64] * 2, 1), sgd(0.05, 0.9), regress, LARGE_BATCHES),
        must="GS502",
        may="GS104 GS205 GS503",
        steps=40,
    ),
    pair(
        "linear-oscillates",
        "regression-linear",
        "momentum of 0.999: the weights swing about the solution",
        # The weights change by a third of their size at every step.
        "GS301",
        Setup(linear, sgd(0.1, 0.999), regress, NUMBERS),
        LINEAR,
        must="GS502",
        may="GS503",
        steps=60,
    ),
    pair(
        "tanh-oscillates",
        "mlp-tanh-3",
        "a learning rate of 0.3 under SGD with momentum: the loss swings about one",
        "GS502",
        Setup(tanh_mlp, sgd(0.3)),
        TANH,
        may="GS301",
        steps=50,
    ),
    pair(
        "gru-oscillates",
        "gru-tokens",
        "a learning rate of 0.1 under Adam: the loss falls, and jumps up again and again",
        # The first updates are as large as the weights.
        "GS301",
        Setup(gru, adam(0.1), data=chains),
        Setup(gru, adam(5e-3), data=chains),
        must="GS502",
        may="GS104 GS503",
        steps=60,
    ),
    # --- Too small ---
    pair(
        "mlp-rate-too-small",
        "mlp-relu-3",
        "a learning rate of 5e-6, taken from Adam's fine-tuning, under SGD",
        "GS301",
        Setup(mlp, sgd(5e-6)),
        MLP,
    ),
    pair(
        "language-model-adam-too-small",
        "language-model-attention",
        "a learning rate of 1e-8 under Adam",
        "GS301",
        Setup(language_model, adam(1e-8), predict_tokens, sentences),
        LANGUAGE,
        may="GS304",
    ),
    pair(
        "convolutions-adam-too-small",
        "convolutional-3",
        "a learning rate of 1e-7 under Adam",
        "GS301",
        Setup(convolutions, adam(1e-7), data=SMALL),
        CONVOLUTIONS,
    ),
    pair(
        "regression-clipped-to-nothing",
        "regression-dense",
        "the gradient's norm clipped to 1e-4",
        "GS301",
        Setup(regression, clipped(sgd(0.02), 1e-4), regress, NUMBERS),
        REGRESSION,
        may="GS505",
        wants_author=True,
    ),
    # --- Stuck ---
    pair(
        "autoencoder-rate-zero",
        "autoencoder-relu",
        "a schedule that starts at a learning rate of zero and is never stepped",
        "GS304",
        Setup(lambda: autoencoder([96, 24], nn.ReLU), adam(0.0), reconstruct),
        AUTOENCODER,
        may="GS301",
    ),
    pair(
        "convolutions-forgotten",
        "convolutional-batch-norm",
        "only the head was given to the optimizer",
        "GS304",
        Setup(norm_convolutions, of_some(sgd(), slice(-2, None)), data=SMALL),
        NORM_CONVOLUTIONS,
        may="GS301",
    ),
    pair(
        "lstm-embedding-and-gates-forgotten",
        "lstm-tokens",
        "the embedding and the recurrent layer were not given to the optimizer",
        "GS304",
        Setup(lstm, of_some(adam(5e-3), slice(-2, None)), data=chains),
        LSTM,
        may="GS301",
    ),
    pair(
        "optimizer-of-a-copy",
        "language-model-attention",
        "the optimizer holds the parameters of a copy of the model",
        "GS304",
        Setup(language_model, of_copies(adam()), predict_tokens, sentences),
        LANGUAGE,
        may="GS301",
    ),
    pair(
        "updates-lost-to-rounding",
        "mlp-bfloat16",
        "weights in bfloat16, whose steps are larger than the updates",
        "GS304",
        Setup(short_floats, adam(1e-6), classify_short),
        Setup(mlp, adam(1e-3)),
        may="GS301 GS402",
    ),
)

CASES = [entry.case for entry in PAIRS]
