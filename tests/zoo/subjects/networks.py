"""Small networks for faulty subjects: their sizes and parts are the caller's to get wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

__all__ = [
    "Apply",
    "CausalModel",
    "Encoder",
    "Recurrent",
    "Residual",
    "SelfAttention",
    "Unrolled",
    "autoencoder",
    "convolutional",
    "dense",
    "initialised",
    "normal",
    "scaled",
    "with_biases",
]

PIXELS = 28 * 28

Draw = Callable[[Tensor], object]
"""Fills a weight in place."""


# --- Weights ----------------------------------------------------------------------------------


def initialised(model: nn.Module, draw: Draw, *, biases: float | None = None) -> nn.Module:
    """The model with ``draw`` on all its weights, and its biases, if told, set to a number."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            draw(parameter)
        elif biases is not None:
            nn.init.constant_(parameter, biases)
    return model


def normal(std: float) -> Draw:
    return partial(nn.init.normal_, std=std)


def scaled(factor: float, draw: Draw = nn.init.kaiming_normal_) -> Draw:
    """What ``draw`` draws, times a factor."""

    def draw_scaled(weight: Tensor) -> None:
        draw(weight)
        with torch.no_grad():
            weight.mul_(factor)

    return draw_scaled


def with_biases(model: nn.Module, value: float, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    """The model with the biases of all layers of some kinds, but the last of them, at ``value``."""
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    for layer in layers[:-1]:
        assert isinstance(layer.bias, Tensor)
        nn.init.constant_(layer.bias, value)
    return model


# --- Feed-forward -----------------------------------------------------------------------------


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def dense(
    features: int,
    widths: Sequence[int],
    outputs: int = 10,
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    norm: Callable[[int], nn.Module] | None = None,
    bias: bool = True,
) -> nn.Sequential:
    """Hidden layers of some widths on flattened inputs, and a linear output."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, width in zip([features, *widths], widths, strict=False):
        layers.append(nn.Linear(fan_in, width, bias=bias))
        layers += [] if norm is None else [norm(width)]
        layers.append(activation())
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def convolutional(
    widths: Sequence[int],
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    norm: bool = False,
    outputs: int = 10,
) -> nn.Sequential:
    """Convolutions of 3 x 3; a width of 0 stands for pooling. Ends in a linear layer."""
    layers: list[nn.Module] = []
    channels = 1
    for width in widths:
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width)] * norm + [activation()]
        channels = width
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *pooled, nn.Linear(channels, outputs))


def autoencoder(
    widths: Sequence[int],
    activation: Callable[[], nn.Module],
    last: Callable[[], nn.Module] = nn.Sigmoid,
    features: int = PIXELS,
) -> nn.Sequential:
    """Layers of some widths down to the code, and the same back to the picture."""
    both = [*widths, *reversed(widths[:-1])]
    return nn.Sequential(*dense(features, both, features, activation), last())


class Residual(nn.Module):
    """x + scale · f(x)"""

    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)  # type: ignore[no-any-return]


# --- Recurrent --------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A fused recurrent layer, of which the last output (or the mean over time) is classified."""

    def __init__(
        self,
        kind: Callable[..., nn.Module],
        features: int = 28,
        hidden: int = 48,
        outputs: int = 10,
        *,
        tokens: int = 0,
        mean: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, features) if tokens else nn.Identity()
        self.recurrent = kind(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        states = self.recurrent(self.embed(x.squeeze(1) if x.ndim == 4 else x))[0]
        return self.head(states.mean(dim=1) if self.mean else states[:, -1])  # type: ignore[no-any-return]


class Unrolled(nn.Module):
    """A recurrent cell, called once for each row of a picture."""

    def __init__(self, cell: nn.Module, hidden: int, outputs: int = 10) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        state: Tensor | None = None
        for row in x.squeeze(1).unbind(1):
            state = self.cell(row, state)
        return self.head(state)  # type: ignore[no-any-return]


# --- Attention --------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """Attention written by hand.

    Args:
        width: of the tokens.
        heads: must divide it.
        scale: of the scores; one over the root of a head's width by default.
        causal: whether no token sees later ones.
        qk_gain: standard deviation of query and key weights times the root of the width, where
            they are not left as they are made.
    """

    def __init__(
        self,
        width: int,
        heads: int = 1,
        *,
        scale: float | None = None,
        causal: bool = False,
        qk_gain: float | None = None,
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.causal = heads, causal
        self.scale = 1 / math.sqrt(width // heads) if scale is None else scale
        if qk_gain is not None:
            for layer in (self.query, self.key):
                nn.init.normal_(layer.weight, std=qk_gain / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-2, -1) * self.scale
        if self.causal:
            closed = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(closed, -math.inf)
        seen = torch.softmax(scores, dim=-1) @ v
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A block of a transformer with the norm first; ``norm`` and ``skip`` can be left out."""

    def __init__(
        self,
        attention: nn.Module,
        width: int,
        activation: Callable[[], nn.Module] = nn.GELU,
        *,
        norm: bool = True,
        skip: bool = True,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))
        self.attention, self.skip = attention, skip
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), activation(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.norm1(x)) + (x if self.skip else 0)
        return self.feed(self.norm2(x)) + (x if self.skip else 0)  # type: ignore[no-any-return]


class CausalModel(nn.Module):
    """A language model; its positions start with a standard deviation of ``position``."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        width: int,
        *,
        tokens: int = 28,
        length: int = 32,
        position: float = 0.02,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.position = nn.Parameter(position * torch.randn(1, length, width))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x) + self.position[:, : x.shape[1]]
        return self.head(self.norm(self.blocks(hidden)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """A transformer over a picture's rows or over tokens; its mean output is classified."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        width: int,
        *,
        features: int = 28,
        tokens: int = 0,
        outputs: int = 10,
        position: float = 0.02,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width) if tokens else nn.Linear(features, width)
        self.position = nn.Parameter(position * torch.randn(1, 64, width))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1) if x.ndim == 4 else x
        hidden = self.embed(x)
        hidden = self.blocks(hidden + self.position[:, : hidden.shape[1]])
        return self.head(hidden.mean(dim=1))  # type: ignore[no-any-return]
