"""The material that rules build their ``bad()`` and ``good()`` from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.subject import Subject

__all__ = ["perceptron", "random_subject"]


@dataclass(frozen=True)
class _RandomBatches:
    """Standard normal inputs with targets that a random linear map makes of them."""

    shape: tuple[int, ...]
    classes: int
    batches: int = 40
    seed: int = 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        inputs = torch.randn(self.batches, *self.shape, generator=generator)
        features = inputs.flatten(2)
        plane = torch.randn(features.shape[2], self.classes, generator=generator)
        return iter(list(zip(inputs, (features @ plane).argmax(dim=2), strict=True)))


def random_subject(
    name: str,
    build_model: Callable[[], nn.Module],
    *,
    shape: tuple[int, ...] = (64, 32),
    classes: int = 10,
    build_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> Subject:
    """A classification subject on random inputs of ``shape`` (samples first), trained by SGD."""

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return Subject(
        name=name,
        build_model=build_model,
        build_data=lambda: _RandomBatches(shape, classes),
        step=step,
        build_optimizer=build_optimizer
        or (lambda parameters: torch.optim.SGD(parameters, lr=0.05)),
    )


def perceptron(
    activation: Callable[[], nn.Module],
    *,
    layers: int,
    width: int = 64,
    features: int = 32,
    classes: int = 10,
    initialise: Callable[[nn.Linear], object] | None = None,
) -> nn.Sequential:
    """``layers`` hidden layers of linear map and activation, and a linear output."""
    modules: list[nn.Module] = []
    for fan_in in [features] + [width] * (layers - 1):
        modules += [nn.Linear(fan_in, width), activation()]
    model = nn.Sequential(*modules, nn.Linear(width, classes))
    if initialise is not None:
        for layer in model:
            if isinstance(layer, nn.Linear):
                initialise(layer)
    return model
