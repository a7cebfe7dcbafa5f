"""Seven sigmoid layers under SGD, which stay at 10 % accuracy: the slides' Model3.

784-128x7-10, sigmoid, weights N(0, 0.05), cross-entropy, SGD, on Fashion-MNIST.

    gradscope scan examples/deep_sigmoid_mlp.py
    python examples/deep_sigmoid_mlp.py --epochs 5
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradscope.examples.fashion_mnist import Batches, load_fashion_mnist
from gradscope.examples.training import accuracy, train_and_print

HIDDEN_LAYERS = 7
WIDTH = 128
WEIGHT_STD = 0.05
LEARNING_RATE = 0.05
BATCH_SIZE = 64


def build_model(hidden_layers: int = HIDDEN_LAYERS) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in in [28 * 28] + [WIDTH] * (hidden_layers - 1):
        layers += [nn.Linear(fan_in, WIDTH), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, WEIGHT_STD)
            nn.init.zeros_(layer.bias)
    return model


def build_data() -> Iterable[tuple[Tensor, Tensor]]:
    data = load_fashion_mnist()
    return Batches(data.train_images, data.train_labels, BATCH_SIZE)


def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


def build_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=LEARNING_RATE)


def evaluate(model: nn.Module) -> dict[str, float]:
    return {"test accuracy": accuracy(model, load_fashion_mnist())}


if __name__ == "__main__":
    train_and_print(build_model, build_data, loss, build_optimizer, evaluate)
