"""What layers tell of the inputs that a model takes, and that those pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.inputs import inferred_batches


class With(nn.Module):
    """Parts under their names, and what is done with them."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def lenet(channels: int, features: int) -> list[nn.Module]:
    return [
        *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(features, 10)),
    ]


def by_stride(*strides: int) -> list[nn.Module]:
    """Each layer halves the image, or more."""
    layers: list[nn.Module] = []
    for number, stride in enumerate(strides):
        layers += [nn.Conv2d(8 if number else 3, 8, 3, stride, 1), nn.BatchNorm2d(8), nn.ReLU()]
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]


def patches(size: int, patch: int, width: int = 16) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.weight.expand(len(x), 1, -1), tokens], 1)
        return self.head(self.block(tokens + self.pos_embed)[:, 0])  # type: ignore[no-any-return]

    model = With(
        forward,
        embed=nn.Conv2d(3, width, patch, patch),
        cls=nn.Embedding(1, width),
        block=nn.TransformerEncoderLayer(width, 2, 32, batch_first=True),
        head=nn.Linear(width, 10),
    )
    model.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
    return model


def cut_up(x: Tensor) -> Tensor:
    """Images as rows of 4 x 4 patches of 3 channels, before any layer has seen them."""
    return (
        nn.functional.unfold(x, 4, stride=4).transpose(1, 2)
        if x.shape[1] == 3
        else x.new_zeros(0, 0, 0, 1)
    )


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, **options)


def tokens(table: nn.Embedding, body: nn.Module, **parts: nn.Module) -> nn.Module:
    return With(lambda self, x: self.body(self.table(x)), table=table, body=body, **parts)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet for 32": (lambda: nn.Sequential(*lenet(3, 400)), (32, 3, 32, 32)),
    "lenet for 28": (lambda: nn.Sequential(nn.ZeroPad2d(2), *lenet(1, 400)), (32, 1, 28, 28)),
    "a view that mixes samples": (
        lambda: With(
            lambda self, x: self.head(self.body(x).view(-1, 400)),
            body=nn.Sequential(*lenet(3, 400)[:-2]),
            head=nn.Linear(400, 10),
        ),
        (32, 3, 32, 32),
    ),
    "32 pixels to one": (lambda: nn.Sequential(*by_stride(2, 2, 2, 2, 2, 1)), (32, 3, 64, 64)),
    "only 224": (lambda: patches(224, 32), (8, 3, 224, 224)),
    "patches": (lambda: patches(40, 8), (32, 3, 40, 40)),
    "patches before any layer": (
        lambda: With(
            lambda self, x: self.head(self.body(cut_up(x)).mean(1)),
            body=nn.Sequential(nn.Linear(48, 16), nn.GELU()),
            head=nn.Linear(16, 10),
        ),
        (32, 3, 32, 32),
    ),
    "signal": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 5), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        (32, 2, 64),
    ),
    "volume": (
        lambda: nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
        (32, 1, 8, 32, 32),
    ),
    "generator": (
        lambda: nn.Sequential(nn.ConvTranspose2d(10, 4, 4), nn.ConvTranspose2d(4, 3, 4, 2, 1)),
        (32, 10, 1, 1),
    ),
    "tabular": (lambda: nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2)), (32, 20)),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 8)), (32, 784)),
    "head registered first": (
        lambda: With(
            lambda self, x: self.head(self.body(x).mean((2, 3))),
            head=nn.Linear(24, 10),
            body=nn.Conv2d(3, 24, 3),
        ),
        (32, 3, 32, 32),
    ),
    "linear, then attention": (
        lambda: nn.Sequential(nn.Linear(6, 16), encoder(batch_first=True)),
        (32, 16, 6),
    ),
    "attention by hand": (
        lambda: With(
            lambda self, x: nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), x),
            q=nn.Linear(8, 8),
            k=nn.Linear(8, 8),
        ),
        (32, 16, 8),
    ),
    "tokens": (lambda: tokens(nn.Embedding(50, 8), nn.Linear(8, 50)), (32, 16)),
    "three tokens": (
        lambda: nn.Sequential(nn.Embedding(27, 10), nn.Flatten(), nn.Linear(30, 27)),
        (32, 3),
    ),
    "bag": (lambda: nn.Sequential(nn.EmbeddingBag(100, 8), nn.Linear(8, 2)), (32, 16)),
    "lstm": (lambda: nn.LSTM(8, 16), (16, 32, 8)),
    "lstm, batch first": (lambda: nn.LSTM(8, 16, batch_first=True), (32, 16, 8)),
    "gru, transposed inside": (
        lambda: With(
            lambda self, x: self.head(self.body(x.transpose(0, 1))[0][-1]),
            body=nn.GRU(8, 16),
            head=nn.Linear(16, 2),
        ),
        (32, 16, 8),
    ),
    "rnn, last step": (
        lambda: With(
            lambda self, x: self.head(self.body(x)[0][-1]),
            body=nn.RNN(8, 16),
            head=nn.Linear(16, 2),
        ),
        (16, 32, 8),
    ),
    "cell": (lambda: nn.GRUCell(4, 5), (32, 4)),
    "encoder layer": (lambda: encoder(batch_first=True), (32, 16, 16)),
    "encoder layer, length first": (lambda: encoder(), (16, 32, 16)),
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 3)), (32, 12)),
    "batch norm of images": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten()),
        (32, 3, 32, 32),
    ),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 3)), (32, 12)),
}


def first(model: nn.Module) -> Any:
    return next(iter(inferred_batches(model)))


@pytest.mark.parametrize(("build", "shape"), MODELS.values(), ids=MODELS)
def test_what_a_model_takes(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build()
    batch = first(model)
    assert tuple(batch.shape) == shape
    model.train()(batch)


@pytest.mark.parametrize("first_table", [8, 64])
def test_positions_that_are_registered_before_the_tokens(first_table: int) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.head(self.ids(x) + self.pos(torch.arange(x.shape[1])))  # type: ignore[no-any-return]

    model = With(
        forward, pos=nn.Embedding(first_table, 4), ids=nn.Embedding(30, 4), head=nn.Linear(4, 30)
    )
    batch = first(model)
    assert batch.shape == (32, min(16, first_table))
    assert (batch.dtype, int(batch.max())) == (torch.int64, 29)
