"""Healthy convolutional networks on pictures, and one on sequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from tests.zoo.subjects.datasets import images, sentences
from tests.zoo.subjects.optimizers import adam, adamw, clipped, rmsprop, sgd
from tests.zoo.subjects.tasks import fresh_and_trained, predict_tokens

SMALL = partial(images, 14, 32)


def on_top(*layers: nn.Module, channels: int) -> nn.Module:
    """Global pooling and ten logits on top of some layers."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def lenet() -> nn.Module:
    """LeCun et al. 1998."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def vgg(*, norm: bool = False, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 1
    for width in (16, 16, 0, 24, 24, 0, 32, 32):
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width)] * norm + [activation()]
        channels = width
    return on_top(*layers, channels=channels)


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


class PreActivationBlock(nn.Module):
    """He et al. 2016: the norm and the activation come before the convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.relu(self.norm1(x)))
        y = self.conv2(functional.relu(self.norm2(y)))
        return y + self.shortcut(x)  # type: ignore[no-any-return]


def resnet(block: Callable[[int, int, int], nn.Module]) -> nn.Module:
    stem = [nn.Conv2d(1, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    blocks = [block(12, 12, 1), block(12, 24, 2), block(24, 32, 2)]
    return on_top(*stem, *blocks, channels=32)


class DenseLayer(nn.Module):
    """Huang et al. 2017: what it computes is laid beside what it was given."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], dim=1)


def densenet(growth: int = 8) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1)]
    layers += [DenseLayer(16 + growth * number, growth) for number in range(3)]
    layers += [nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 16, 1), nn.AvgPool2d(2)]
    layers += [DenseLayer(16 + growth * number, growth) for number in range(3)]
    return on_top(*layers, nn.BatchNorm2d(40), nn.ReLU(), channels=40)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gates(x)  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Sandler et al. 2018, and with squeeze-and-excitation Howard et al. 2019."""

    def __init__(
        self,
        channels: int,
        out: int,
        stride: int,
        activation: Callable[[], nn.Module],
        *,
        squeeze: bool,
    ) -> None:
        super().__init__()
        wide = 3 * channels
        self.skips = stride == 1 and channels == out
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            activation(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            *[SqueezeExcitation(wide)] * squeeze,
            activation(),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + (x if self.skips else 0)  # type: ignore[no-any-return]


def mobilenet(activation: Callable[[], nn.Module], *, squeeze: bool) -> nn.Module:
    blocks = [
        InvertedResidual(12, 12, 1, activation, squeeze=squeeze),
        InvertedResidual(12, 20, 2, activation, squeeze=squeeze),
        InvertedResidual(20, 32, 2, activation, squeeze=squeeze),
    ]
    stem = [nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), activation()]
    last = [nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), activation()]
    return on_top(*stem, *blocks, *last, channels=64)


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022; the branch is scaled by a number that starts at 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(functional.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    return on_top(nn.Conv2d(1, 24, 2, 2), *(ConvNeXtBlock(24) for _ in range(3)), channels=24)


def group_norm() -> nn.Module:
    layers: list[nn.Module] = []
    for channels_in, channels in ((1, 16), (16, 24), (24, 32), (32, 32)):
        stride = 2 if channels_in in (16, 24) else 1
        layers += [
            nn.Conv2d(channels_in, channels, 3, stride, 1),
            nn.GroupNorm(4, channels),
            nn.SiLU(),
        ]
    return on_top(*layers, channels=32)


class UNet(nn.Module):
    """Ronneberger et al. 2015: down, up again, and across."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = self.block(1, width)
        self.second = self.block(width, 2 * width)
        self.bottom = self.block(2 * width, 2 * width)
        self.up2 = nn.ConvTranspose2d(2 * width, 2 * width, 2, 2)
        self.joined2 = self.block(4 * width, width)
        self.up1 = nn.ConvTranspose2d(width, width, 2, 2)
        self.joined1 = self.block(2 * width, width)
        self.last = nn.Conv2d(width, 1, 1)

    @staticmethod
    def block(channels_in: int, channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        high = self.first(x)
        middle = self.second(functional.max_pool2d(high, 2))
        low = self.bottom(functional.max_pool2d(middle, 2))
        y = self.joined2(torch.cat([self.up2(low), middle], dim=1))
        return self.last(self.joined1(torch.cat([self.up1(y), high], dim=1)))  # type: ignore[no-any-return]


def segment(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Which pixels belong to the thing, told from a noisy picture."""
    mask = (batch[0] > 0.2).float()
    noisy = batch[0] + 0.3 * torch.randn_like(batch[0])
    return functional.binary_cross_entropy_with_logits(model(noisy), mask)


class Dilated(nn.Module):
    """A causal convolution in a residual branch, with normed weights (Bai et al. 2018)."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv = weight_norm(nn.Conv1d(width, width, 3, dilation=dilation))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(functional.pad(x, (self.reach, 0))))


class TemporalConvolution(nn.Module):
    """A language model."""

    def __init__(self, tokens: int = 28, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*(Dilated(width, 2**number) for number in range(4)))
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.blocks(self.embed(x).transpose(1, 2))
        return self.head(hidden.transpose(1, 2))  # type: ignore[no-any-return]


def mix_up(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Pictures laid over each other, with both labels in part (Zhang et al. 2018)."""
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    labels = functional.one_hot(batch[1], 10).float()
    pictures = share * batch[0] + (1 - share) * batch[0].flip(0)
    return functional.cross_entropy(model(pictures), share * labels + (1 - share) * labels.flip(0))


CASES = (
    *fresh_and_trained("lenet", lenet, sgd()),
    *fresh_and_trained("vgg", vgg, adam(2e-3), data=SMALL, trained=300),
    *fresh_and_trained("vgg-batchnorm", lambda: vgg(norm=True), sgd(), data=SMALL),
    *fresh_and_trained(
        "vgg-elu-mixup", lambda: vgg(activation=nn.ELU), adam(), step=mix_up, data=SMALL
    ),
    *fresh_and_trained("resnet", lambda: resnet(ResidualBlock), sgd(), data=SMALL, trained=150),
    *fresh_and_trained(
        "resnet-preactivation",
        lambda: resnet(PreActivationBlock),
        sgd(nesterov=True, weight_decay=5e-4),
        data=SMALL,
        trained=150,
    ),
    *fresh_and_trained("densenet", densenet, adam(), data=SMALL, trained=150),
    *fresh_and_trained(
        "mobilenet-relu6",
        lambda: mobilenet(nn.ReLU6, squeeze=False),
        rmsprop(5e-4, momentum=0.9),
        data=SMALL,
        trained=150,
    ),
    *fresh_and_trained(
        "mobilenet-hardswish",
        lambda: mobilenet(nn.Hardswish, squeeze=True),
        adam(),
        data=SMALL,
        trained=150,
    ),
    *fresh_and_trained("convnext", convnext, adamw(3e-3, 0.05), data=SMALL, trained=200),
    *fresh_and_trained("group-norm", group_norm, sgd(), data=SMALL),
    *fresh_and_trained(
        "unet", UNet, adam(2e-3), step=segment, data=partial(images, 16, 32), trained=100
    ),
    *fresh_and_trained(
        "temporal-convolution",
        TemporalConvolution,
        clipped(adam(2e-3)),
        step=predict_tokens,
        data=sentences,
    ),
)
