"""What the networks are trained on: the shipped Fashion-MNIST, and data made here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from gradscope.examples.fashion_mnist import SAMPLE, load_fashion_mnist

Batch = tuple[Tensor, Tensor]

TOKENS = 96
"""Of the made-up text: the rarest comes once in 5,000."""

CLASSES, FEATURES = 7, 40
"""Of the clusters."""


def classification(output: Tensor, batch: Batch) -> Tensor:
    return cross_entropy(output, batch[1].flatten())


def regression(output: Tensor, batch: Batch) -> Tensor:
    return mse_loss(output, batch[1])


def _pictures(size: int) -> Iterator[Batch]:
    data = load_fashion_mnist(SAMPLE)
    while True:
        chosen = torch.randint(len(data.train_images), (size,))
        yield data.train_images[chosen], data.train_labels[chosen]


def _clusters(size: int) -> Iterator[Batch]:
    """Gaussian clusters that overlap: the best there is leaves about a tenth wrong."""
    middles = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(3)) * 0.5
    while True:
        labels = torch.randint(CLASSES, (size,))
        yield middles[labels] + torch.randn(size, FEATURES), labels


def _text(size: int) -> Iterator[Batch]:
    """A token is mostly followed by a certain one, else by any of a Zipf distribution."""
    shares = 1.0 / torch.arange(1, TOKENS + 1).double() ** 1.2
    follows = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(5))
    while True:
        any_ = torch.multinomial(shares, size // 4 * 17, replacement=True).view(-1, 17)
        keep = torch.rand(any_.shape) < 0.6
        tokens = any_.clone()
        for place in range(1, 17):
            tokens[:, place] = torch.where(
                keep[:, place], follows[tokens[:, place - 1]], any_[:, place]
            )
        yield tokens[:, :-1], tokens[:, 1:]


def _waves(size: int) -> Iterator[Batch]:
    """A smooth function of eight numbers; no noise, so that a loss can go on falling."""
    while True:
        x = torch.rand(size, 8) * 2 - 1
        yield x, torch.sin(math.pi * x.mean(1, keepdim=True) * 2) + x[:, :1] * x[:, 1:2]


@dataclass(frozen=True)
class Data:
    """Batches of a given size from torch's own generator, and the loss that goes with them."""

    name: str
    batches: Callable[[int], Iterator[Batch]]
    loss: Callable[[Tensor, Batch], Tensor] = classification


PICTURES = Data("pictures", _pictures)
CLUSTERS = Data("clusters", _clusters)
TEXT = Data("text", _text)
WAVES = Data("waves", _waves, regression)
