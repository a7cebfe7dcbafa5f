"""Weights drawn far too large, far too small, or all alike."""

from __future__ import annotations

import math
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
    initialised,
    normal,
    scaled,
)
from tests.zoo.subjects.optimizers import adam, sgd
from tests.zoo.subjects.pairs import Setup, pair
from tests.zoo.subjects.tasks import predict_tokens, reconstruct, regress

SMALL = partial(images, 14)
TABLE = partial(table, "number")


def times_root_of_fan(weight: Tensor) -> None:
    """Multiplies by the root of the fan-in where it should divide."""
    nn.init.normal_(weight, std=math.sqrt(weight.shape[1]))


def over_fan(weight: Tensor) -> None:
    """Takes one over the fan-in for the standard deviation; it is the variance."""
    nn.init.normal_(weight, std=1 / weight.shape[1])


def ones(weight: Tensor) -> None:
    nn.init.ones_(weight)


def constant(weight: Tensor) -> None:
    nn.init.constant_(weight, 0.01)


def mlp() -> nn.Module:
    return dense(PIXELS, [96] * 4)


def tanh_mlp() -> nn.Module:
    return dense(PIXELS, [96] * 3, activation=nn.Tanh)


def small_convolutions() -> nn.Module:
    return convolutional([16, 16, 0, 16])


def language_model() -> nn.Module:
    return CausalModel([Block(SelfAttention(128, 4, causal=True), 128)], 128)


def lstm(hidden: int) -> nn.Module:
    return Recurrent(nn.LSTM, 16, hidden, 4, tokens=16, mean=True)


def widened(units: int, copies: int) -> nn.Module:
    """Each unit is there several times, with its share of the outgoing weight."""
    model = dense(PIXELS, [units * copies] * 2)
    first, middle, last = (model[number] for number in (1, 3, 5))
    with torch.no_grad():
        for layer in (first, middle):
            layer.weight.copy_(layer.weight[:units].repeat(copies, 1))
            layer.bias.copy_(layer.bias[:units].repeat(copies))
        for layer in (middle, last):
            layer.weight.copy_(layer.weight[:, :units].repeat(1, copies))
    return model


LANGUAGE = Setup(language_model, adam(), predict_tokens, sentences)
REGRESSION = Setup(lambda: dense(12, [64] * 3, 1), sgd(0.02), regress, TABLE)
LSTM = Setup(lambda: lstm(48), adam(5e-3), data=chains)

PAIRS = (
    # --- Too large ---
    pair(
        "mlp-weights-normal-1",
        "mlp-relu-4",
        "weights drawn from N(0, 1)",
        "GS303",
        Setup(lambda: initialised(mlp(), normal(1)), sgd()),
        Setup(mlp, sgd()),
        may="GS102 GS104 GS206 GS301 GS401 GS402 GS503 GS504",
    ),
    pair(
        "convolutions-weights-normal-1",
        "convolutional-3",
        "weights drawn from N(0, 1)",
        "GS303",
        Setup(lambda: initialised(convolutional([16, 32, 0, 32]), normal(1)), adam(), data=SMALL),
        Setup(lambda: convolutional([16, 32, 0, 32]), adam(), data=SMALL),
        may="GS102 GS504",
    ),
    pair(
        "language-model-weights-normal-1",
        "language-model-attention",
        "weights drawn from N(0, 1)",
        "GS303",
        Setup(lambda: initialised(language_model(), normal(1)), adam(), predict_tokens, sentences),
        LANGUAGE,
        may="GS504 GS601",
    ),
    pair(
        "lstm-weights-normal-1",
        "lstm-tokens",
        "weights drawn from N(0, 1), which saturates all gates",
        "GS303",
        Setup(lambda: initialised(lstm(192), normal(1)), adam(), data=chains),
        Setup(lambda: lstm(192), adam(), data=chains),
        may="GS102 GS504 GS602",
    ),
    pair(
        "tanh-weights-times-fan",
        "mlp-tanh-3",
        "weights multiplied by the root of the fan-in instead of divided by it",
        "GS303",
        Setup(lambda: initialised(tanh_mlp(), times_root_of_fan), sgd()),
        Setup(tanh_mlp, sgd()),
        must="GS202",
        may="GS504",
    ),
    pair(
        "regression-he-times-20",
        "regression-dense",
        "a gain of 20 on He's weights",
        "GS303",
        Setup(lambda: initialised(dense(12, [64] * 3, 1), scaled(20)), sgd(0.02), regress, TABLE),
        REGRESSION,
        may="GS102 GS104 GS206 GS301 GS401 GS402 GS503",
    ),
    # --- Too small ---
    pair(
        "mlp-weights-0.001",
        "mlp-relu-6",
        "weights drawn with a standard deviation of 0.001",
        "GS303",
        Setup(lambda: initialised(dense(PIXELS, [96] * 6), normal(0.001)), sgd()),
        Setup(lambda: dense(PIXELS, [96] * 6), sgd()),
        may="GS101 GS201 GS203 GS204 GS205 GS301 GS304 GS703",
    ),
    pair(
        "convolutions-weights-0.001",
        "convolutional-5",
        "weights drawn with a standard deviation of 0.001, and no biases",
        "GS303",
        Setup(
            lambda: initialised(convolutional([16, 16, 0, 16, 16, 16]), normal(0.001), biases=0),
            adam(),
            data=SMALL,
        ),
        Setup(lambda: convolutional([16, 16, 0, 16, 16, 16]), adam(), data=SMALL),
        may="GS101 GS203 GS204 GS205 GS206 GS301 GS304 GS703",
    ),
    pair(
        "stack-weights-0.01",
        "mlp-relu-12",
        "weights drawn with a standard deviation of 0.01, as for AlexNet, in twelve layers",
        "GS303",
        Setup(lambda: initialised(dense(PIXELS, [96] * 12), normal(0.01), biases=0), sgd()),
        Setup(lambda: initialised(dense(PIXELS, [96] * 12), scaled(1), biases=0), sgd(0.01)),
        may="GS101 GS203 GS204 GS205 GS206 GS301 GS304 GS703",
    ),
    pair(
        "autoencoder-weights-0.001",
        "autoencoder-tanh",
        "weights drawn with a standard deviation of 0.001",
        "GS303",
        Setup(
            lambda: initialised(autoencoder([96, 48, 24], nn.Tanh), normal(0.001), biases=0),
            sgd(0.5),
            reconstruct,
        ),
        Setup(lambda: autoencoder([96, 48, 24], nn.Tanh), sgd(0.5), reconstruct),
        may="GS101 GS204 GS205 GS206 GS301 GS304 GS703",
    ),
    pair(
        "gelu-std-over-fan",
        "mlp-gelu-6",
        "standard deviation of one over the fan-in instead of its root",
        "GS303",
        Setup(lambda: initialised(dense(PIXELS, [192] * 6, activation=nn.GELU), over_fan), adam()),
        Setup(lambda: dense(PIXELS, [192] * 6, activation=nn.GELU), adam()),
        may="GS101 GS204 GS205 GS703",
    ),
    # --- Alike ---
    pair(
        "mlp-weights-constant",
        "mlp-relu-3",
        "all weights start at 0.01",
        "GS302",
        Setup(lambda: initialised(dense(PIXELS, [96] * 3), constant, biases=0), adam()),
        Setup(lambda: dense(PIXELS, [96] * 3), adam()),
        may="GS205 GS303",
    ),
    pair(
        "tanh-weights-zero",
        "mlp-tanh-3",
        "all weights and biases start at zero",
        "GS302",
        Setup(lambda: initialised(tanh_mlp(), nn.init.zeros_, biases=0), sgd()),
        Setup(tanh_mlp, sgd()),
        may="GS101 GS103 GS203 GS204 GS205 GS206 GS301 GS303 GS703",
    ),
    pair(
        "convolutions-weights-zero",
        "convolutional-3",
        "all weights start at zero",
        "GS302",
        Setup(
            lambda: initialised(small_convolutions(), nn.init.zeros_, biases=0.1),
            adam(),
            data=SMALL,
        ),
        Setup(small_convolutions, adam(), data=SMALL),
        may="GS204 GS205 GS301 GS303 GS703",
    ),
    pair(
        "lstm-weights-constant",
        "lstm-tokens",
        "all weights start at 0.1",
        "GS302",
        Setup(
            lambda: initialised(lstm(48), partial(nn.init.constant_, val=0.1), biases=0),
            adam(5e-3),
            data=chains,
        ),
        LSTM,
        may="GS205",
    ),
    pair(
        "regression-weights-one",
        "regression-dense",
        "all weights start at one",
        "GS302",
        Setup(
            lambda: initialised(dense(12, [64] * 3, 1), ones, biases=0),
            adam(),
            regress,
            TABLE,
        ),
        Setup(lambda: dense(12, [64] * 3, 1), adam(), regress, TABLE),
        may="GS102 GS205 GS206 GS303",
    ),
    pair(
        "widened-without-noise",
        "mlp-widened",
        "a trained network widened by copying its units, which stay copies for ever",
        "GS302",
        Setup(lambda: widened(4, 16), sgd()),
        Setup(lambda: widened(64, 1), sgd()),
        may="GS205",
    ),
)

CASES = [entry.case for entry in PAIRS]
