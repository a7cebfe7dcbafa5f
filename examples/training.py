"""What the examples share when they are run as scripts: a plain training loop."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.examples.fashion_mnist import VARIABLE, FashionMNIST

__all__ = ["accuracy", "train_and_print"]


@torch.no_grad()
def accuracy(model: nn.Module, data: FashionMNIST) -> float:
    """Share of the test images whose largest logit is at their label."""
    images, labels = data.test_images, data.test_labels
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    right = sum(
        int((model(part.to(device)).argmax(dim=1).cpu() == truth).sum())
        for part, truth in zip(images.split(1000), labels.split(1000), strict=True)
    )
    model.train(was_training)
    return right / len(labels)


def train_and_print(
    build_model: Callable[[], nn.Module],
    build_data: Callable[[], Iterable[Any]],
    loss: Callable[[Any, Any], Tensor],
    build_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    evaluate: Callable[[nn.Module], Mapping[str, float]],
) -> None:
    """Trains as the file says and prints the loss and the metric after each epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, help="folder with the Fashion-MNIST files")
    arguments = parser.parse_args()
    if arguments.data_dir is not None:
        os.environ[VARIABLE] = str(arguments.data_dir)
    torch.manual_seed(arguments.seed)
    model = build_model()
    optimizer = build_optimizer(model.parameters())
    data = build_data()
    for epoch in range(1, arguments.epochs + 1):
        losses = []
        for batch in data:
            optimizer.zero_grad()
            value = loss(model(batch[0]), batch)
            value.backward()
            optimizer.step()
            losses.append(value.item())
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in evaluate(model).items())
        print(f"epoch {epoch}: training loss {sum(losses) / len(losses):.4f}, {metrics}")
