"""Healthy models of words, pairs and graphs: what they learn is where to place things."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.subjects.datasets import Batches, chains, images
from tests.zoo.subjects.networks import convolutional, dense
from tests.zoo.subjects.optimizers import adam, adamw, sgd
from tests.zoo.subjects.tasks import classify, fresh_and_trained, regress

SMALL = partial(images, 14)


class SkipGram(nn.Module):
    """Mikolov et al. 2013: the second table starts at zero."""

    def __init__(self, tokens: int = 64, width: int = 16) -> None:
        super().__init__()
        self.word = nn.Embedding(tokens, width)
        self.context = nn.Embedding(tokens, width)
        nn.init.uniform_(self.word.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.context.weight)

    def forward(self, word: Tensor, context: Tensor) -> Tensor:
        return torch.einsum("bw,bnw->bn", self.word(word), self.context(context))


@cache
def neighbours(batch_size: int = 128) -> Batches:
    """Each token of walks through one chain of 64, and the token behind it."""
    walks = chains(tokens=64, kinds=1).images
    return Batches(walks[:, :-1].flatten()[:20_000], walks[:, 1:].flatten()[:20_000], batch_size)


def negative_sampling(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The true neighbour against five drawn ones."""
    drawn = torch.randint(64, (len(batch[0]), 5))
    scores = model(batch[0], torch.cat([batch[1].unsqueeze(1), drawn], dim=1))
    targets = torch.zeros_like(scores)
    targets[:, 0] = 1
    return functional.binary_cross_entropy_with_logits(scores, targets)


class BagOfPairs(nn.Module):
    """The mean of the vectors of neighbouring pairs (Joulin et al. 2017)."""

    def __init__(self, tokens: int = 16, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.tokens = tokens
        self.bag = nn.EmbeddingBag(tokens * tokens, width, mode="mean")
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bag(x[:, :-1] * self.tokens + x[:, 1:]))  # type: ignore[no-any-return]


class Factors(nn.Module):
    """How somebody likes something: the product of two vectors (Koren et al. 2009)."""

    def __init__(self, users: int = 50, items: int = 40, width: int = 8) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.3)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)

    def forward(self, x: Tensor) -> Tensor:
        user, item = x.unbind(1)
        product = (self.users(user) * self.items(item)).sum(dim=1, keepdim=True)
        return product + self.user_bias(user) + self.item_bias(item)  # type: ignore[no-any-return]


@cache
def ratings(batch_size: int = 64) -> Batches:
    """Pairs of a user and an item (batch, 2), and a rating (batch, 1) of rank three with noise."""
    source = torch.Generator().manual_seed(13)
    users, items = torch.randn(50, 3, generator=source), torch.randn(40, 3, generator=source)
    pairs = torch.stack(
        [torch.randint(count, (4096,), generator=source) for count in (50, 40)], dim=1
    )
    rating = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(dim=1, keepdim=True)
    noise = 0.1 * torch.randn(4096, 1, generator=source)
    return Batches(pairs, rating / rating.std() + noise, batch_size)


def two_views(pictures: Tensor) -> Tensor:
    """Each picture twice, shifted and made noisier by chance, one batch behind the other."""

    def view() -> Tensor:
        rows, columns = torch.randint(-1, 2, (2,)).tolist()
        return pictures.roll((rows, columns), (2, 3)) + 0.1 * torch.randn_like(pictures)

    return torch.cat([view(), view()])


def contrast(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Which of all the views is the other one of the same picture (Chen et al. 2020)."""
    placed = functional.normalize(model(two_views(batch[0])), dim=1)
    count = len(batch[0])
    alike = placed @ placed.T / 0.2
    alike = alike.masked_fill(torch.eye(2 * count, dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(alike, torch.arange(2 * count).roll(count))


def same_or_not(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Pairs of one kind near each other, others one apart at least (Hadsell et al. 2006)."""
    one, other = model(batch[0]).chunk(2)
    distance = functional.pairwise_distance(one, other)
    kind, other_kind = batch[1].chunk(2)
    return torch.where(kind == other_kind, distance**2, functional.relu(1 - distance) ** 2).mean()


def triplets(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Each picture nearer to those of its kind than to the others (Schroff et al. 2015)."""
    placed = functional.normalize(model(batch[0]), dim=1)
    distance = 2 - 2 * placed @ placed.T
    same = batch[1][:, None] == batch[1][None, :]
    short = distance[:, :, None] - distance[:, None, :] + 0.2
    return functional.relu(short[same[:, :, None] & ~same[:, None, :]]).mean()


class GraphNetwork(nn.Module):
    """Two graph convolutions with the normed adjacency (Kipf, Welling 2017)."""

    def __init__(self, features: int, width: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, classes)
        self.drop = nn.Dropout(0.3)
        joined = neighbourhood() + torch.eye(len(neighbourhood()))
        root = joined.sum(dim=1).rsqrt()
        self.register_buffer("adjacency", root[:, None] * joined * root[None, :])

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.adjacency, Tensor)
        hidden = torch.relu(self.adjacency @ self.first(x))
        return self.adjacency @ self.second(self.drop(hidden))  # type: ignore[no-any-return]


@cache
def neighbourhood(nodes: int = 200, kinds: int = 4) -> Tensor:
    """A graph whose nodes know mostly those of their own kind, (nodes, nodes)."""
    source = torch.Generator().manual_seed(14)
    kind = torch.arange(nodes) % kinds
    odds = torch.where(kind[:, None] == kind[None, :], 0.12, 0.01)
    joined = (torch.rand(nodes, nodes, generator=source) < odds).float().triu(1)
    return joined + joined.T


class OneGraph:
    """All nodes with noisy features, (nodes, features), and their kinds: one batch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        source = torch.Generator().manual_seed(15)
        kind = torch.arange(len(neighbourhood())) % 4
        middle = torch.randn(4, 16, generator=source)
        yield middle[kind] + 2 * torch.randn(len(kind), 16, generator=source), kind


CASES = (
    *fresh_and_trained("skip-gram", SkipGram, adam(0.02), step=negative_sampling, data=neighbours),
    *fresh_and_trained("bag-of-pairs", BagOfPairs, sgd(1.0), data=chains),
    *fresh_and_trained("factors", Factors, sgd(2.0, 0.0), step=regress, data=ratings),
    *fresh_and_trained(
        "contrastive",
        lambda: convolutional([16, 0, 24, 0, 32], norm=True, outputs=16),
        adamw(2e-3),
        step=contrast,
        data=SMALL,
        trained=100,
    ),
    *fresh_and_trained(
        "siamese", lambda: dense(196, [96] * 2, 8), adam(), step=same_or_not, data=SMALL
    ),
    *fresh_and_trained(
        "triplets",
        lambda: convolutional([12, 0, 24], nn.LeakyReLU, outputs=8),
        adam(2e-3),
        step=triplets,
        data=SMALL,
    ),
    *fresh_and_trained(
        "graph",
        lambda: GraphNetwork(16),
        adamw(0.01, 5e-4),
        step=classify,
        data=OneGraph,
        trained=100,
    ),
)
