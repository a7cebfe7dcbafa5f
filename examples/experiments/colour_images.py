"""32 x 32 pixels of three channels: CIFAR-100, or Fashion-MNIST in its place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from gradscope.examples.experiments.cifar100 import CIFAR100, CLASSES, load_cifar100
from gradscope.examples.fashion_mnist import FashionMNIST, load_fashion_mnist

__all__ = ["Data", "prepared"]


@dataclass(frozen=True)
class Data:
    """Normalised images ``(samples, 3, 32, 32)`` and labels, on the device."""

    name: str
    classes: int
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@lru_cache(maxsize=1)
def prepared(folder: Path | None, count: int, device: str) -> Data:
    """CIFAR-100 from its folder or else Fashion-MNIST.

    If only ``count`` training images are asked for, the same share of the test images is taken:
    testing would otherwise take longer than training.
    """
    whole: CIFAR100 | FashionMNIST
    if folder is not None:
        whole, name, classes, largest, border = load_cifar100(folder), "CIFAR-100", CLASSES, 255, 0
    else:
        whole, classes, largest, border = load_fashion_mnist(), 10, 1, 2
        name = whole.name
    generator = torch.Generator().manual_seed(0)
    share = min(1.0, count / len(whole.train_images)) if count else 1.0

    def part(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(images), generator=generator)
        chosen = chosen[: max(1, round(share * len(images)))]
        return nn.functional.pad(images[chosen].float() / largest, [border] * 4), labels[chosen]

    train, train_labels = part(whole.train_images, whole.train_labels)
    test, test_labels = part(whole.test_images, whole.test_labels)
    centre, spread = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    # Grey images become three channels that share their memory.
    train, test = (
        ((pixels - centre) / spread).to(device).expand(-1, 3, -1, -1) for pixels in (train, test)
    )
    return Data(name, classes, train, train_labels.to(device), test, test_labels.to(device))
