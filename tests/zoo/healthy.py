"""Networks that learn Fashion-MNIST as they are: none of them may be given a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.examples.fashion_mnist import SAMPLE, Batches, load_fashion_mnist
from gradscope.subject import Subject

__all__ = ["HEALTHY", "healthy_subject"]

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


class ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))  # type: ignore[no-any-return]


def resnet() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(1, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
    ]
    channels = 16
    for width, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        layers.append(ResidualBlock(channels, width, stride))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def vgg(*, norm: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 1
    for width in (16, 16, 0, 32, 32, 0, 64, 64, 0, 128, 128):
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width)] * norm + [nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def mlp(
    activation: Callable[[], nn.Module],
    depth: int,
    *,
    norm: Callable[[int], nn.Module] | None = None,
    initialise: Callable[[Tensor], object] | None = None,
    width: int = 128,
) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in in [28 * 28] + [width] * (depth - 1):
        linear = nn.Linear(fan_in, width)
        if initialise is not None:
            initialise(linear.weight)
        layers += [linear, *([norm(width)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Encoder(nn.Module):
    """A transformer over the image's rows."""

    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(28, 64)
        self.position = nn.Parameter(0.02 * torch.randn(1, 28, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.squeeze(1)) + self.position
        return self.head(self.encoder(tokens).mean(dim=1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """A recurrent network over the image's rows."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.recurrent = kind(28, 64, batch_first=True, num_layers=2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x.squeeze(1))[0][:, -1])  # type: ignore[no-any-return]


class Autoencoder(nn.Sequential):
    """Reconstructs the image; its loss is computed in ``healthy_subject``."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(28 * 28, 128),
            nn.ReLU(),
            nn.Linear(128, 16),
            nn.ReLU(),
            nn.Linear(16, 128),
            nn.ReLU(),
            nn.Linear(128, 28 * 28),
            nn.Sigmoid(),
        )


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 4, 4)
        self.tokens = nn.ModuleList(self.block(49) for _ in range(4))
        self.channels = nn.ModuleList(self.block(32) for _ in range(4))
        self.head = nn.Linear(32, 10)

    @staticmethod
    def block(features: int) -> nn.Module:
        return nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, 64), nn.GELU(), nn.Linear(64, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)
        for tokens, channels in zip(self.tokens, self.channels, strict=True):
            x = x + tokens(x)
            x = x + channels(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.mean(dim=2))  # type: ignore[no-any-return]


def he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def lecun(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="linear")


HEALTHY: dict[str, tuple[Callable[[], nn.Module], Optimizer]] = {
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)), sgd),
    "mlp-relu-3": (lambda: mlp(nn.ReLU, 3), sgd),
    "mlp-relu-5": (lambda: mlp(nn.ReLU, 5), sgd),
    "mlp-relu-8-adam": (lambda: mlp(nn.ReLU, 8), adam),
    "mlp-relu-20-he-adam": (lambda: mlp(nn.ReLU, 20, initialise=he), adam),
    "mlp-relu-20-batchnorm": (lambda: mlp(nn.ReLU, 20, norm=nn.BatchNorm1d), adam),
    "mlp-tanh-5": (lambda: mlp(nn.Tanh, 5), sgd),
    "mlp-tanh-8": (lambda: mlp(nn.Tanh, 8), sgd),
    "mlp-sigmoid-2": (lambda: mlp(nn.Sigmoid, 2), sgd),
    "mlp-sigmoid-3-adam": (lambda: mlp(nn.Sigmoid, 3), adam),
    "mlp-gelu-6": (lambda: mlp(nn.GELU, 6), adam),
    "mlp-selu-10": (lambda: mlp(nn.SELU, 10, initialise=lecun), adam),
    "vgg-adam": (vgg, adam),
    "vgg-batchnorm": (lambda: vgg(norm=True), sgd),
    "resnet": (resnet, sgd),
    "mixer": (Mixer, adam),
    "transformer-pre-norm": (lambda: Encoder(norm_first=True), adam),
    "transformer-post-norm": (lambda: Encoder(norm_first=False), adam),
    "lstm": (lambda: Recurrent(nn.LSTM), adam),
    "gru": (lambda: Recurrent(nn.GRU), adam),
    "rnn": (lambda: Recurrent(nn.RNN), adam),
    "autoencoder": (Autoencoder, adam),
}


def healthy_subject(name: str) -> Subject:
    """The network of that name on the shipped sample."""
    build_model, build_optimizer = HEALTHY[name]
    data = load_fashion_mnist(SAMPLE)

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        output: Any = model(batch[0])
        if isinstance(model, Autoencoder):
            return functional.mse_loss(output, batch[0].flatten(1))
        return functional.cross_entropy(output, batch[1])

    return Subject(
        name=name,
        build_model=build_model,
        build_data=lambda: Batches(data.train_images, data.train_labels, 64),
        step=step,
        build_optimizer=build_optimizer,
    )
