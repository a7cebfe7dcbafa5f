"""Stacks too deep for how they are initialised or normalised: signals die, grow or lose rank."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tests.zoo.subjects.datasets import chains, images, table
from tests.zoo.subjects.networks import (
    PIXELS,
    Apply,
    Encoder,
    Residual,
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
from tests.zoo.subjects.tasks import reconstruct, regress

SMALL = partial(images, 14)
CLASSES = partial(table, "class")
NUMBERS = partial(table, "number")


class ScaledGradient(nn.Module):
    """A layer whose input gets only a share of the gradient."""

    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        self.layer, self.share = nn.Linear(width, width), share

    def forward(self, x: Tensor) -> Tensor:
        x = self.share * x + (1 - self.share) * x.detach()
        return torch.relu(self.layer(x))


def scaled_gradient(share: float) -> nn.Module:
    layers = [ScaledGradient(64, share) for _ in range(5)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 64), *layers, nn.Linear(64, 10))
    return initialised(model, nn.init.kaiming_normal_)


class Gated(nn.Module):
    """Lets a share of its input through, or adds that share to it."""

    def __init__(self, width: int, *, skip: bool) -> None:
        super().__init__()
        self.gate, self.skip = nn.Linear(width, width), skip

    def forward(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(self.gate(x))
        return share * x * (2 if self.skip else 1)


def gates(*, skip: bool) -> nn.Module:
    layers = (Gated(48, skip=skip) for _ in range(20))
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 48), *layers, nn.Linear(48, 10))


def attention_only(*, skip: bool) -> nn.Module:
    attentions = [SelfAttention(32, 2) for _ in range(5)]
    layers = [Residual(each) if skip else each for each in attentions]
    return Encoder(layers, 32, tokens=16, outputs=4)


def bottleneck(units: int) -> nn.Module:
    return dense(PIXELS, [96, units, 96, 96], activation=nn.Tanh)


class Siamese(nn.Module):
    """Two noisy views of a picture are to be embedded alike (Bardes, Ponce, LeCun 2022)."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        self.encoder = dense(196, [64, 64], 32, nn.Tanh)
        self.apart = apart

    def forward(self, x: Tensor) -> Tensor:
        both = [self.encoder(x + 0.3 * torch.randn_like(x)) for _ in range(2)]
        near = (both[0] - both[1]).square().mean()
        if not self.apart:
            return near
        return near + torch.relu(1 - torch.cat(both).std(dim=0)).mean()


def own_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0])  # type: ignore[no-any-return]


def first_mean(x: Tensor) -> Tensor:
    """One number for all units: the mean over the wrong axis, spread out again."""
    return x.mean(dim=1, keepdim=True).expand(-1, 64)


def sigmoid_stack() -> nn.Module:
    return dense(PIXELS, [128] * 7, activation=nn.Sigmoid)


def relu_stack(depth: int) -> nn.Module:
    return dense(PIXELS, [64] * depth)


def he_stack(depth: int) -> nn.Module:
    return initialised(relu_stack(depth), nn.init.kaiming_normal_, biases=0)


def tanh_stack() -> nn.Module:
    return dense(PIXELS, [64] * 30, activation=nn.Tanh)


def gelu_stack() -> nn.Module:
    return dense(12, [48] * 40, 4, nn.GELU)


def deep_autoencoder(activation: Callable[[], nn.Module]) -> nn.Module:
    return autoencoder([96, 64, 48, 24], activation)


PLAIN = [12, 12, 0, *[12] * 10]

PAIRS = (
    # --- Samples become alike ---
    pair(
        "slides-sigmoid-7",
        "mlp-sigmoid-7",
        "seven sigmoid layers with weights from N(0, 0.05), as in the slides",
        "GS204",
        Setup(lambda: initialised(sigmoid_stack(), normal(0.05), biases=0), sgd()),
        Setup(lambda: initialised(dense(PIXELS, [128] * 7), scaled(1), biases=0), sgd(0.02)),
        must="GS101",
        may="GS205 GS301",
    ),
    pair(
        "sigmoid-xavier-10",
        "mlp-sigmoid-10",
        "ten sigmoid layers; Xavier's weights are for tanh",
        "GS204",
        Setup(
            lambda: initialised(
                dense(12, [64] * 10, 4, nn.Sigmoid), nn.init.xavier_normal_, biases=0
            ),
            sgd(),
            data=CLASSES,
        ),
        Setup(
            lambda: initialised(dense(12, [64] * 10, 4, nn.Tanh), nn.init.xavier_normal_, biases=0),
            sgd(),
            data=CLASSES,
        ),
        must="GS101",
        may="GS205 GS301",
    ),
    pair(
        "autoencoder-sigmoid-8",
        "autoencoder-deep",
        "eight sigmoid layers, trained from scratch",
        "GS204",
        Setup(lambda: deep_autoencoder(nn.Sigmoid), adam(), reconstruct),
        Setup(lambda: deep_autoencoder(nn.ELU), adam(), reconstruct),
        may="GS101 GS205 GS703",
    ),
    pair(
        "tanh-30-default",
        "mlp-tanh-30",
        "thirty tanh layers with the default weights, which are for few layers",
        "GS204",
        Setup(tanh_stack, sgd()),
        Setup(lambda: initialised(tanh_stack(), nn.init.xavier_normal_, biases=0), sgd(0.01)),
        must="GS101",
        may="GS205 GS301 GS304 GS703",
    ),
    pair(
        "relu-30-default",
        "mlp-relu-30",
        "thirty ReLU layers with the default weights",
        "GS204",
        Setup(lambda: relu_stack(30), sgd()),
        Setup(lambda: he_stack(30), adam(3e-4)),
        must="GS101",
        may="GS201 GS203 GS205 GS301 GS304 GS703",
    ),
    pair(
        "convolutions-12-default",
        "convolutional-12",
        "twelve plain convolutions with the default weights",
        "GS204",
        Setup(lambda: convolutional(PLAIN), adam(), data=SMALL),
        Setup(lambda: convolutional(PLAIN, norm=True), adam(), data=SMALL),
        may="GS101 GS201 GS203 GS703",
    ),
    pair(
        "gelu-40-default",
        "mlp-gelu-40",
        "forty GELU layers with the default weights",
        "GS204",
        Setup(gelu_stack, adam(), data=CLASSES),
        Setup(lambda: dense(12, [48] * 6, 4, nn.GELU), adam(), data=CLASSES),
        may="GS101 GS205 GS301 GS304 GS703",
    ),
    pair(
        "softmax-between-layers",
        "mlp-softmax-4",
        "softmax as the activation of hidden layers",
        "GS204",
        Setup(lambda: dense(PIXELS, [96] * 4, activation=partial(nn.Softmax, dim=1)), adam()),
        Setup(lambda: dense(PIXELS, [96] * 4), adam()),
        may="GS101 GS205 GS703",
        wants_author=True,
    ),
    # --- The gradient dies, the samples do not ---
    pair(
        "gradient-scaled-in-every-block",
        "mlp-scaled-gradient",
        "the gradient scaled down to a tenth, meant for one place, in each of five blocks",
        "GS101",
        Setup(lambda: scaled_gradient(0.1), sgd(0.01)),
        Setup(lambda: scaled_gradient(1.0), sgd(0.01)),
        may="GS301",
        wants_author=True,
    ),
    pair(
        "relu-20-without-biases",
        "mlp-relu-20-without-biases",
        "twenty ReLU layers with the default weights, no biases",
        "GS101",
        Setup(lambda: dense(PIXELS, [64] * 20, bias=False), sgd()),
        Setup(
            lambda: initialised(dense(PIXELS, [64] * 20, bias=False), nn.init.kaiming_normal_),
            sgd(0.005),
        ),
        must="GS206",
        may="GS201 GS203 GS205 GS301 GS304 GS703",
    ),
    pair(
        "gates-in-a-chain",
        "gate-chain",
        "twenty gates, each of which halves its input",
        # The gates, which are the activations, come to see nothing but their biases.
        "GS204",
        Setup(lambda: gates(skip=False), sgd()),
        Setup(lambda: gates(skip=True), adam()),
        may="GS205 GS206 GS301 GS304",
    ),
    # --- Rank ---
    pair(
        "attention-without-skip",
        "attention-only",
        "five layers of attention without skip connections (Dong et al. 2021)",
        "GS205",
        Setup(lambda: attention_only(skip=False), adam(), data=chains),
        Setup(lambda: attention_only(skip=True), adam(), data=chains),
        may="GS301",
    ),
    pair(
        "bottleneck-of-one",
        "mlp-bottleneck",
        "a layer of one unit in the middle",
        "GS205",
        Setup(lambda: bottleneck(1), adam()),
        Setup(lambda: bottleneck(32), adam()),
    ),
    pair(
        "mean-over-features",
        "mlp-spread",
        "the mean over the features instead of a norm, spread out again",
        "GS205",
        Setup(
            lambda: nn.Sequential(*dense(12, [64], 64), Apply(first_mean), *dense(64, [64, 64], 1)),
            adam(),
            regress,
            NUMBERS,
        ),
        Setup(
            lambda: nn.Sequential(*dense(12, [64], 64), nn.LayerNorm(64), *dense(64, [64, 64], 1)),
            adam(),
            regress,
            NUMBERS,
        ),
        may="GS201 GS203",
    ),
    pair(
        "siamese-positives-alone",
        "siamese",
        "views of one picture are drawn together, and nothing keeps pictures apart",
        "GS205",
        Setup(lambda: Siamese(apart=False), adam(1e-2), own_loss, SMALL),
        Setup(lambda: Siamese(apart=True), adam(1e-2), own_loss, SMALL),
        may="GS103 GS104 GS204",
        trained=200,
    ),
)

CASES = [entry.case for entry in PAIRS]
