"""The models that ``bench_monitor.py`` trains, and a plain training step of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.optim import Optimizer

Batch = tuple[Tensor, Tensor]

BATCHES = 4
"""How many different batches a run goes through in turn."""


def mlp(widths: list[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def tiny() -> nn.Module:
    return mlp([784, *[128] * 7, 10])


def wide() -> nn.Module:
    return mlp([784, *[2048] * 4, 10])


class BasicBlock(nn.Module):
    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or fan_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(fan_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu(out + self.downsample(x))
        return result


def cnn() -> nn.Module:
    """A ResNet-18 for small images: no stride and no pooling before the first stage.

    Nothing is in place, which full backward hooks of modules, as some arms have, do not allow.
    """
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    stages = [
        nn.Sequential(BasicBlock(fan_in, width, stride), BasicBlock(width, width, 1))
        for fan_in, width, stride in widths
    ]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class GptBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in self.qkv(self.ln1(x)).chunk(3, dim=-1)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        result: Tensor = x + self.mlp(self.ln2(x))
        return result


class Gpt(nn.Module):
    def __init__(self, vocabulary: int = 5000, width: int = 256, length: int = 128) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(GptBlock(width, 4) for _ in range(4)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.blocks(self.tokens(tokens) + self.positions(places))
        result: Tensor = self.head(self.norm(x)).flatten(0, 1)
        return result


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.Adam(parameters, lr=1e-4)


def momentum(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


@dataclass(frozen=True)
class Workload:
    """A training.

    Attributes:
        title: what tables say of it.
        inputs: shape of a batch.
        rounds: how often each arm is measured.
        block: how many steps of an arm are measured in a round, at least.
        beside: how many of the training that nobody watches are measured beside them, at most.
        whole: whether a block can be as long as the monitor's cycle of 100 steps.
        tokens: inputs are tokens, which are their own targets.
    """

    title: str
    build: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    classes: int
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    rounds: int
    block: int = 1
    beside: int = 2
    whole: bool = False
    tokens: bool = False

    def batch(self) -> Batch:
        if self.tokens:
            x = torch.randint(self.classes, self.inputs)
            return x, x.flatten()
        return torch.randn(self.inputs), torch.randint(self.classes, self.inputs[:1])


WORKLOADS = {
    "tiny": Workload(
        "tiny MLP", tiny, (128, 784), 10, adam, rounds=12, block=20, beside=100, whole=True
    ),
    "wide": Workload("wide MLP", wide, (128, 784), 10, adam, rounds=8),
    "cnn": Workload("CNN", cnn, (32, 3, 32, 32), 10, momentum, rounds=3),
    "gpt": Workload("GPT", Gpt, (8, 128), 5000, adam, rounds=6, tokens=True),
}


class Training:
    """A model being trained, from the same weights on the same batches whenever it is made anew."""

    def __init__(self, workload: Workload) -> None:
        torch.manual_seed(0)
        self.model = workload.build()
        self.optimizer = workload.optimizer(self.model.parameters())
        self.batches = [workload.batch() for _ in range(BATCHES)]
        self.steps = 0

    def step(self) -> Tensor:
        """A step, by the book.

        Returns:
            The loss, a scalar.
        """
        inputs, targets = self.batches[self.steps % BATCHES]
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(inputs), targets)
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return loss
