"""Three ReLU layers with He weights under SGD: nothing is wrong with it, and a scan says so.

gradscope scan examples/healthy_mlp.py
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradscope.examples.fashion_mnist import Batches, load_fashion_mnist
from gradscope.examples.training import accuracy, train_and_print


def build_model() -> nn.Module:
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return model


def build_data() -> Iterable[tuple[Tensor, Tensor]]:
    data = load_fashion_mnist()
    return Batches(data.train_images, data.train_labels, 64)


def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


def build_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def evaluate(model: nn.Module) -> dict[str, float]:
    return {"test accuracy": accuracy(model, load_fashion_mnist())}


if __name__ == "__main__":
    train_and_print(build_model, build_data, loss, build_optimizer, evaluate)
