"""Convolutional families: units are channels, at dimension 1 until they are flattened."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.families.entry import IMAGES, Family, adam, pairs, sgd


def conv(
    fan_in: int, fan_out: int, size: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(fan_out),
    )


class Pooled(nn.Module):
    """A trunk, its mean over positions, and a linear head."""

    def __init__(self, *trunk: nn.Module, channels: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*trunk)
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).mean(dim=(2, 3)))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def alexnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 1, 2), nn.ReLU(True), nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(40, 16), nn.ReLU(True),
        nn.Dropout(0.5), nn.Linear(16, 16), nn.ReLU(True), nn.Linear(16, 3),
    )  # fmt: skip


def vgg(norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    fan_in = 3
    for fan_out in (6, 6, 0, 8, 8, 0):
        if not fan_out:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(fan_out)] if norm else []
        layers.append(nn.ReLU(inplace=True))
        fan_in = fan_out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))


class BasicBlock(nn.Module):
    """He et al. 2015; one ReLU in place serves both places, the second after the addition."""

    def __init__(self, fan_in: int, fan_out: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1, groups=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.relu = nn.ReLU(inplace=True)
        changes = stride > 1 or fan_in != fan_out
        self.downsample = conv(fan_in, fan_out, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class PreActivation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(functional.relu(self.bn1(x)))
        return x + self.conv2(functional.relu(self.bn2(out)))


class Dense(nn.Module):
    """Huang et al. 2017: each layer is given all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(True), nn.Conv2d(c, 4, 3, padding=1))
            for c in (6, 10, 14)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class Parallel(nn.Module):
    """Branches side by side, concatenated over channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def inception() -> nn.Module:
    def mixed(c: int) -> nn.Module:
        return Parallel(
            nn.Sequential(nn.Conv2d(c, 3, 1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(c, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(c, 2, 1), nn.ReLU()),
        )

    return Pooled(nn.Conv2d(3, 4, 3), nn.ReLU(), mixed(4), mixed(9), channels=9)


class Fire(nn.Module):
    def __init__(self, fan_in: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(fan_in, 3, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1, self.expand3x3 = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        one = self.expand1x1_activation(self.expand1x1(x))
        return torch.cat([one, self.expand3x3_activation(self.expand3x3(x))], 1)


class Inverted(nn.Module):
    """MobileNet's inverted residual: expand, filter each channel by itself, project."""

    def __init__(self, c: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv(c, 2 * c, 1), activation(), *conv(2 * c, 2 * c, groups=2 * c), activation(),
            *conv(2 * c, c, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Squeezed(nn.Module):
    """EfficientNet's channel gate: what is pooled decides how much of each channel passes."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.up = nn.Conv2d(c, 2, 1), nn.Conv2d(2, c, 1)
        self.act, self.scale = nn.SiLU(inplace=True), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(self.up(self.act(self.down(self.pool(x)))))


class Efficient(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv(c, 2 * c, 1), nn.SiLU(True), *conv(2 * c, 2 * c, groups=2 * c), nn.SiLU(True),
            Squeezed(2 * c), *conv(2 * c, c, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ConvNeXt(nn.Module):
    """Liu et al. 2022: the middle of a block has its channels last."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.norm, self.pwconv1 = nn.LayerNorm(c), nn.Linear(c, 4 * c)
        self.act, self.pwconv2 = nn.GELU(), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.full((c,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.dwconv(x).permute(0, 2, 3, 1)
        h = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(h))))
        return x + h.permute(0, 3, 1, 2)


class WaveNet(nn.Module):
    """Gated dilated convolutions in one dimension, with skip connections to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 4, 1)
        self.filters = nn.ModuleList(nn.Conv1d(4, 4, 2, dilation=d) for d in (1, 2, 4))
        self.gates = nn.ModuleList(nn.Conv1d(4, 4, 2, dilation=d) for d in (1, 2, 4))
        self.residuals = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(4, 5, 1) for _ in range(3))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        total: Tensor | float = 0.0
        layers = zip(self.filters, self.gates, self.residuals, self.skips, strict=True)
        for filtering, gate, residual, skip in layers:
            h = torch.tanh(filtering(x)) * torch.sigmoid(gate(x))
            total = total + skip(h).mean(dim=2)
            x = x[:, :, -h.shape[2] :] + residual(h)
        assert isinstance(total, Tensor)
        return self.head(torch.relu(total))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(True))
        self.down2 = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(True))
        self.bottom = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(True))
        self.rise2, self.rise1 = nn.ConvTranspose2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 4, 2, 2)
        self.up2 = nn.Sequential(nn.Conv2d(12, 6, 3, padding=1), nn.ReLU(True))
        self.up1 = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(True))
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        h = self.bottom(functional.max_pool2d(two, 2))
        h = self.up2(torch.cat([self.rise2(h), two], 1))
        return self.out(self.up1(torch.cat([self.rise1(h), one], 1)))


def segmentation(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(output, (batch[0][:, 0] > 0).long())


class Decoder(nn.Module):
    """From a code to an image, as generators and autoencoders do it."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(6, 32)
        self.body = nn.Sequential(
            nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6),
            nn.LeakyReLU(0.2, True), nn.ConvTranspose2d(6, 2, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(torch.relu(self.code(x)).unflatten(1, (8, 2, 2)))


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = cnn().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.to(memory_format=torch.channels_last))


class FunctionalConvolutions(nn.Module):
    """Weights that the root holds, as in meta-learning."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(5, 3, 3, 3) * 0.2)
        self.w2 = nn.Parameter(torch.randn(5, 5, 3, 3) * 0.2)
        self.w3 = nn.Parameter(torch.randn(3, 5) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.batch_norm(functional.conv2d(x, self.w1), None, None, training=True)
        h = functional.group_norm(torch.conv2d(h.relu_(), self.w2), 1)
        return functional.linear(functional.hardswish(h).mean((2, 3)), self.w3)


def norms() -> nn.Module:
    layers: list[nn.Module] = []
    fan_in = 3
    for norm in (
        nn.BatchNorm2d(4, affine=False), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4),
        nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(1, 4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
    ):  # fmt: skip
        layers += [nn.Conv2d(fan_in, 4, 3, padding=1, bias=False), norm, nn.ReLU()]
        fan_in = 4
    return Pooled(*layers, channels=4)


SPATIAL = ("trunk.*",)
CONVNEXT = ("trunk.0", "*.dwconv", "trunk.1", "trunk.2")

FAMILIES = (
    Family("cnn-in-place", cnn, IMAGES, units_at_1=("[0-3]",), optimizer=sgd),
    Family("alexnet", alexnet, IMAGES, units_at_1=("[0-4]",)),
    Family("vgg", lambda: vgg(False), IMAGES, units_at_1=("?",)),
    Family("vgg-batchnorm", lambda: vgg(True), IMAGES, units_at_1=("?", "1[0-3]")),
    Family("vgg-large", lambda: vgg(False), pairs(3, 8, 8, samples=40), units_at_1=("?",)),
    Family("resnet", lambda: Pooled(*conv(3, 4), nn.ReLU(True), BasicBlock(4, 4),
        BasicBlock(4, 6, 2), channels=6), IMAGES, units_at_1=SPATIAL, optimizer=sgd,
        shows=("trunk.3.relu@1", "trunk.4.downsample.0")),
    Family("resnet-pre-activation", lambda: Pooled(nn.Conv2d(3, 4, 3), PreActivation(4),
        PreActivation(4), channels=4), IMAGES, units_at_1=SPATIAL),
    Family("resnext", lambda: Pooled(*conv(3, 8), nn.ReLU(True), BasicBlock(8, 8, groups=4),
        channels=8), IMAGES, units_at_1=SPATIAL),
    Family("densenet", lambda: Pooled(nn.Conv2d(3, 6, 3), Dense(), nn.ReLU(), channels=18),
        IMAGES, units_at_1=SPATIAL),
    Family("inception", inception, IMAGES, units_at_1=SPATIAL),
    Family("squeezenet", lambda: Pooled(nn.Conv2d(3, 6, 3), nn.ReLU(True), Fire(6), Fire(8),
        channels=8), IMAGES, units_at_1=SPATIAL),
    Family("mobilenet-v2", lambda: Pooled(*conv(3, 4), nn.ReLU6(True), Inverted(4, nn.ReLU6),
        Inverted(4, nn.ReLU6), channels=4), IMAGES, units_at_1=SPATIAL),
    Family("mobilenet-v3", lambda: Pooled(*conv(3, 4), nn.Hardswish(True),
        Inverted(4, nn.Hardswish), nn.Conv2d(4, 4, 1), nn.Hardsigmoid(), channels=4), IMAGES,
        units_at_1=SPATIAL),
    Family("efficientnet", lambda: Pooled(*conv(3, 4), nn.SiLU(), Efficient(4), channels=4),
        IMAGES, units_at_1=SPATIAL, optimizer=adam),
    Family("convnext", lambda: Pooled(nn.Conv2d(3, 4, 2, 2), ConvNeXt(4), ConvNeXt(4),
        channels=4), IMAGES, units_at_1=CONVNEXT),
    Family("channels-last", ChannelsLast, IMAGES, units_at_1=("body.[0-3]",)),
    Family("wavenet", WaveNet, pairs(2, 20), units_at_1=("stem", "filters*", "gates*",
        "residuals*", "skips*", "::tanh*", "::sigmoid*"), shows=("::tanh@2",)),
    Family("conv3d", lambda: nn.Sequential(nn.Conv3d(1, 4, 3), nn.ELU(), nn.Conv3d(4, 4, 2),
        nn.ELU(), nn.Flatten(), nn.Linear(32, 3)), pairs(1, 5, 5, 5), units_at_1=("[0-3]",)),
    Family("transposed-decoder", Decoder, pairs(6), units_at_1=("body*",),
        loss=lambda output, batch: (output - batch[0][:, :1, None, None]).square().mean()),
    Family("unet", UNet, IMAGES, loss=segmentation, units_at_1=("*",)),
    Family("functional-convolutions", FunctionalConvolutions, IMAGES, units_at_1=("*",),
        shows=("::conv2d@1", "::batch_norm@0", "::group_norm@0", "::hardswish@0")),
    Family("norms", norms, IMAGES, units_at_1=SPATIAL),
)  # fmt: skip
