"""A small convolutional network with batch normalisation under Adam: healthy.

gradscope scan examples/healthy_cnn.py
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradscope.examples.fashion_mnist import Batches, load_fashion_mnist
from gradscope.examples.training import accuracy, train_and_print


def block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


def build_model() -> nn.Module:
    return nn.Sequential(
        *block(1, 16),
        nn.MaxPool2d(2),
        *block(16, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(64, 10),
    )


def build_data() -> Iterable[tuple[Tensor, Tensor]]:
    data = load_fashion_mnist()
    return Batches(data.train_images, data.train_labels, 64)


def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


def build_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-3)


def evaluate(model: nn.Module) -> dict[str, float]:
    return {"test accuracy": accuracy(model, load_fashion_mnist())}


if __name__ == "__main__":
    train_and_print(build_model, build_data, loss, build_optimizer, evaluate)
