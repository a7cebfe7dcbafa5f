"""The small networks whose checkpoints are read: MLPs, CNNs, a ResNet, Transformers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def mlp(
    activation: Activation = nn.ReLU,
    hidden: int = 3,
    width: int = 64,
    gain: float | None = None,
    *,
    inputs: int = 784,
    outputs: int = 10,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Module:
    """``gain``: over one by the root of the fan-in, as normal weights; PyTorch's own without."""
    layers: list[nn.Module] = [nn.Flatten()]
    for number in range(hidden):
        layer = nn.Linear(width if number else inputs, width)
        if gain is not None:
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)
        layers += [layer, *([norm(width)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def he(hidden: int) -> nn.Module:
    return mlp(hidden=hidden, gain=math.sqrt(2))


def cnn(
    activation: Activation = nn.ReLU,
    widths: Sequence[int] = (8, 16, 32),
    *,
    normalised: bool = False,
    channels: int = 1,
    outputs: int = 10,
) -> nn.Module:
    """Each of the first three convolutions halves the picture."""
    layers: list[nn.Module] = []
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise((channels, *widths))):
        stride = 2 if number < 3 else 1
        layers.append(nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=not normalised))
        layers += [nn.BatchNorm2d(fan_out)] if normalised else []
        layers.append(activation())
    head = nn.Linear(widths[-1], outputs)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu2(x + inner)
        return result


def resnet(width: int = 16, outputs: int = 10) -> nn.Module:
    stem = [nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs)]
    return nn.Sequential(*stem, nn.MaxPool2d(2), Residual(width), Residual(width), *end)


class Block(nn.Module):
    """Of a Transformer, normalised first; without skips it is what makes deep ones vanish."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: Activation, *, skip: bool
    ) -> None:
        super().__init__()
        self.skip = float(skip)
        self.norm1 = nn.LayerNorm(width) if skip else nn.Identity()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width) if skip else nn.Identity()
        self.up, self.activation = nn.Linear(width, hidden), activation()
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        inner = self.norm1(x)
        x = self.skip * x + self.attention(inner, inner, inner, attn_mask=mask)[0]
        result: Tensor = self.skip * x + self.down(self.activation(self.up(self.norm2(x))))
        return result


class Transformer(nn.Module):
    """Over the rows of a picture, or with a ``vocabulary`` over tokens, each predicting the next.

    The state_dict is in the order of use: embedding, blocks, head.
    """

    def __init__(
        self,
        activation: Activation = nn.ReLU,
        blocks: int = 2,
        width: int = 32,
        *,
        skip: bool = True,
        vocabulary: int = 0,
        inputs: int = 28,
        outputs: int = 10,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.entry = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(inputs, width)
        self.position = nn.Parameter(torch.randn(28, width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(width, 4, 2 * width, activation, skip=skip) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width) if skip else nn.Identity()
        self.head = nn.Linear(width, vocabulary or outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x if self.vocabulary else x.squeeze(1))
        length = x.shape[1]
        mask = None
        if self.vocabulary:
            mask = torch.full((length, length), -math.inf).triu(1)
        x = x + self.position[:length]
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        result: Tensor = self.head(x).flatten(0, 1) if self.vocabulary else self.head(x.mean(1))
        return result


class Cut(nn.Module):
    """A trunk from which no gradient comes back."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.trunk(x) * 0.0 + 1.0)
        return result


class InBfloat16(nn.Module):
    """Weights, and with them an optimizer's moments, of eight bits of precision."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x.bfloat16()).float()
        return result


# --- Faults -----------------------------------------------------------------------------------


def gated(model: nn.Module) -> list[nn.Module]:
    """The layers with a bias right before an activation."""
    found = []
    before: nn.Module | None = None
    for each in model.modules():
        if type(each) in (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d):
            before = each if isinstance(each.bias, Tensor) else None
        elif type(each) in _ACTIVATIONS and before is not None:
            found.append(before)
            before = None
    return found


_ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU)


def shifted(
    model: nn.Module, share: float, shift: float, layers: Iterable[int] | None = None
) -> nn.Module:
    """That share of the units of the gated layers, or of some of them, gets that bias."""
    found = gated(model)
    with torch.no_grad():
        for number in range(len(found)) if layers is None else layers:
            bias = found[number].bias
            assert isinstance(bias, Tensor)
            bias[: round(share * len(bias))] = shift
    return model


def drawn_from(model: nn.Module, std: float) -> nn.Module:
    """All matrices and kernels but the last are drawn from N(0, std)."""
    for parameter in [each for each in model.parameters() if each.ndim > 1][:-1]:
        nn.init.normal_(parameter, std=std)
    return model


def symmetric(model: nn.Module) -> nn.Module:
    """All units of each hidden layer are the same."""
    with torch.no_grad():
        for layer in gated(model):
            assert isinstance(layer.weight, Tensor)
            assert isinstance(layer.bias, Tensor)
            layer.weight[:] = layer.weight[:1].clone()
            layer.bias.zero_()
        last = [each for each in model.modules() if isinstance(each, nn.Linear)][-1]
        last.weight[:] = last.weight[:, :1].clone()
    return model
