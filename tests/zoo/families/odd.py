"""Families whose outputs, batches, losses or gradients are not the usual ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.families.dense import mlp
from tests.zoo.families.entry import (
    FURTHER,
    STEPS,
    Family,
    adam,
    cross_entropy,
    generator,
    own_loss,
    pairs,
    sgd,
    tokens,
)


class Mixture(nn.Module):
    """Each sample goes to the best of four experts; two of them, nobody ever chooses."""

    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(4)
        )
        self.head, self.dense = nn.Linear(8, 3), dense
        with torch.no_grad():
            self.router.bias[2:] = -50.0

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(dim=1)
        if self.dense:
            outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
            return self.head((weights[:, :, None] * outputs).sum(dim=1))
        best = weights.argmax(dim=1)
        h = x.new_zeros(len(x), 8)
        for i, expert in enumerate(self.experts):
            chosen = (best == i).nonzero()[:, 0]
            if len(chosen):
                h = h.index_add(0, chosen, expert(x[chosen]) * weights[chosen, i, None])
        return self.head(h)


def generator_network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 12, bias=False),
        nn.BatchNorm1d(12),
        nn.LeakyReLU(0.2),
        nn.Linear(12, 6),
        nn.Tanh(),
    )


def discriminator_network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 12), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(12, 1), nn.Sigmoid()
    )


class Against(nn.Module):
    """Generator and discriminator in one, called by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = generator_network(), discriminator_network()


def adversarial() -> Callable[[nn.Module, Any], Tensor]:
    """The generator's step against a discriminator that is no part of the model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        judge = discriminator_network().requires_grad_(False)

    def step(model: nn.Module, batch: Tensor) -> Tensor:
        verdict = judge(model(batch))
        return functional.binary_cross_entropy(verdict, torch.ones_like(verdict))

    return step


def both(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(model, Against)
    noise, real = batch
    fake = model.generator(noise)
    loss = functional.binary_cross_entropy
    right, wrong = model.discriminator(real), model.discriminator(fake.detach())
    judged = model.discriminator(fake)
    return (
        loss(right, torch.ones_like(right)) + loss(wrong, torch.zeros_like(wrong))
        + loss(judged, torch.ones_like(judged))
    )  # fmt: skip


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(6, 12), nn.Linear(12, 3), nn.Linear(12, 3)
        self.decode = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 6), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.relu(self.encode(x))
        mean, log_variance = self.mean(h), self.spread(h)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decode(z), mean, log_variance


def evidence(output: tuple[Tensor, Tensor, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    image, mean, log_variance = output
    target = torch.sigmoid(batch[0])
    divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
    return (functional.mse_loss(image, target, reduction="none").sum(1) + divergence).mean()


class Siamese(nn.Module):
    """Two inputs through the same tower."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))

    def forward(self, left: Tensor, right: Tensor, same: Tensor) -> Tensor:
        return (self.tower(left) - self.tower(right)).square().sum(dim=1)


def contrastive(output: Tensor, batch: dict[str, Tensor]) -> Tensor:
    close, far = output, (2 - output).clamp(min=0)
    return torch.where(batch["same"], close, far).mean()


def twins() -> list[dict[str, Tensor]]:
    source = generator()
    return [
        {
            "left": torch.randn(16, 6, generator=source),
            "right": torch.randn(16, 6, generator=source),
            "same": torch.randint(2, (16,), generator=source).bool(),
        }
        for _ in range(STEPS + FURTHER)
    ]


class Recompute(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.before, self.after, self.reentrant = nn.Linear(6, 8), nn.Linear(8, 3), reentrant
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 8), nn.Tanh())
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        for block in self.blocks:
            h = h + torch.utils.checkpoint.checkpoint(block, h, use_reentrant=self.reentrant)
        return self.after(h)


class LoRA(nn.Module):
    """A frozen layer and the small change that is trained (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.up(self.down(x))


def lora() -> nn.Module:
    return nn.Sequential(
        LoRA(nn.Linear(6, 8)), nn.ReLU(), LoRA(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)
    )


class DLRM(nn.Module):
    """Dense features and bags of categories, crossed by their products (Naumov et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU())
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(11, 5, mode=mode, sparse=True) for mode in ("sum", "mean")
        )
        self.item = nn.Embedding(7, 5, sparse=True)
        self.top = nn.Sequential(nn.Linear(11, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())

    def forward(self, features: Tensor, categories: Tensor, item: Tensor, target: Tensor) -> Tensor:
        low = self.bottom(features)
        vectors = [low, *(bag(categories) for bag in self.bags), self.item(item)]
        stacked = torch.stack(vectors, dim=1)
        products = stacked @ stacked.transpose(1, 2)
        rows, columns = torch.tril_indices(4, 4, offset=-1)
        return self.top(torch.cat([low, products[:, rows, columns]], dim=1))[:, 0]


def clicks() -> list[dict[str, Tensor]]:
    source = generator()
    return [
        {
            "features": torch.randn(16, 4, generator=source),
            "categories": torch.randint(11, (16, 3), generator=source),
            "item": torch.randint(7, (16,), generator=source),
            "target": torch.randint(2, (16,), generator=source).float(),
        }
        for _ in range(STEPS + FURTHER)
    ]


class Recommender(nn.Module):
    """Users times items; the score has one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(9, 4), nn.Embedding(11, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, user: Tensor, item: Tensor, rating: Tensor) -> Tensor:
        return torch.sigmoid(self.scale * (self.user(user) * self.item(item)).sum(dim=1))


def ratings() -> list[dict[str, Tensor]]:
    source = generator()
    return [
        {
            "user": torch.randint(9, (20,), generator=source),
            "item": torch.randint(11, (20,), generator=source),
            "rating": torch.rand(20, generator=source),
        }
        for _ in range(STEPS + FURTHER)
    ]


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


class Answering(nn.Module):
    """Outputs that are no tensors: a dictionary, or a dataclass with a loss in it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.kind = mlp(nn.ReLU), kind
        self.aside = nn.Linear(9, 2)

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        h = self.body[:-1](x)
        logits = self.body[-1](h)
        loss = functional.cross_entropy(logits, labels)
        if self.kind == "dict":
            return {"logits": logits, "loss": loss, "aside": self.aside(h)}
        return Answer(logits, loss)


def labelled() -> list[dict[str, Tensor]]:
    return [{"x": x, "labels": y} for x, y in pairs(6)()]


class Graph(nn.Module):
    """Kipf, Welling 2016: neighbours are averaged through a dense adjacency for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 6)])
        self.head = nn.Linear(6, 3)

    def forward(self, nodes: Tensor, edges: Tensor, target: Tensor) -> Tensor:
        edges = edges / edges.sum(dim=2, keepdim=True)
        for layer in self.layers:
            nodes = torch.relu(edges @ layer(nodes))
        return self.head(nodes.mean(dim=1))


def graphs() -> list[dict[str, Tensor]]:
    source = generator()
    return [
        {
            "nodes": torch.randn(12, 5, 4, generator=source),
            "edges": (torch.rand(12, 5, 5, generator=source) < 0.5).float() + torch.eye(5),
            "target": torch.randint(3, (12,), generator=source),
        }
        for _ in range(STEPS + FURTHER)
    ]


class Sets(nn.Module):
    """Zaheer et al. 2017: an element at a time, then their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
        self.outer = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).sum(dim=1))


class Spectral(nn.Module):
    """Li et al. 2020: a layer on the spectrum, with complex weights, beside an ordinary one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.beside, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.weight = nn.Parameter(torch.randn(5, dtype=torch.cfloat))
        self.complex = nn.Linear(5, 5, dtype=torch.cfloat)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        spectrum = self.complex(torch.fft.rfft(x) * self.weight)
        return self.head(torch.relu(torch.fft.irfft(spectrum, n=8) + self.beside(x)))


def summed(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(output, batch[1], reduction="sum")


POINTS = pairs(6)

FAMILIES = (
    Family("mixture", lambda: Mixture(False), pairs(6, samples=24)),
    Family("mixture-dense", lambda: Mixture(True), POINTS),
    Family("gan-generator", generator_network, lambda: [x for x, _ in pairs(4)()],
        step=adversarial()),
    Family("gan", Against, lambda: [(z, x[0]) for (z, _), x in
        zip(pairs(4)(), pairs(6)(), strict=True)], step=both,
        shows=("discriminator.4@2",)),
    Family("vae", VAE, POINTS, evidence, optimizer=adam),
    Family("autoencoder", lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2),
        nn.ReLU(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 6), nn.Sigmoid()), POINTS,
        loss=lambda output, batch: functional.mse_loss(output, batch[0].sigmoid())),
    Family("siamese", Siamese, twins, contrastive, shows=("tower.1@1",)),
    Family("checkpoint", lambda: Recompute(False), POINTS),
    Family("checkpoint-reentrant", lambda: Recompute(True), POINTS, recomputed=("blocks.*",)),
    Family("lora", lora, POINTS, optimizer=adam),
    Family("dlrm-sparse", DLRM, clicks, optimizer=sgd,
        loss=lambda output, batch: functional.binary_cross_entropy(output, batch["target"])),
    Family("recommender", Recommender, ratings,
        loss=lambda output, batch: functional.mse_loss(output, batch["rating"])),
    Family("dict-output", lambda: Answering("dict"), labelled, own_loss),
    Family("dataclass-output", lambda: Answering("dataclass"), labelled, own_loss),
    Family("graph-convolution", Graph, graphs,
        loss=lambda output, batch: functional.cross_entropy(output, batch["target"])),
    Family("deep-sets", Sets, pairs(5, 4)),
    Family("spectral", Spectral, POINTS, unseen=("complex",)),
    Family("summed-loss", lambda: mlp(nn.Tanh), POINTS, summed, reduction="sum"),
    Family("text-classifier", lambda: nn.Sequential(nn.EmbeddingBag(13, 6), nn.Linear(6, 3)),
        tokens(7), cross_entropy),
)  # fmt: skip
