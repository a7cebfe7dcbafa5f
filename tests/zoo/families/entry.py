"""What an entry of the table of families says, and the batches that most of them take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SEED = 0
STEPS, FURTHER = 3, 2


def cross_entropy(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(output, batch[1])


def own_loss(output: Any, batch: Any) -> Tensor:
    """Of a model that returns its loss."""
    return output["loss"] if isinstance(output, dict) else output.loss


def mean_square(output: Tensor, batch: Any) -> Tensor:
    return output.square().mean()


@dataclass(frozen=True)
class Family:
    """A kind of model, tiny, with all it takes to profile it.

    Attributes:
        make: the model; random numbers are seeded when it is called.
        batches: made anew at each call, always the same.
        loss: ``loss(output, batch)``; ignored where there is a ``step``.
        step: ``step(model, batch)``, for what a loss cannot say.
        units_at_1: globs of sites whose units are at dimension 1 rather than the last.
        samples_at_1: globs of sites whose samples are at dimension 1 rather than the first.
        optimizer: makes one, where the model is updated after each step.
        reduction: how the loss reduces over samples.
        attention: whether scores inside the fused attention are asked for.
        rounding: globs of parameters whose gradient is zero but for rounding.
        shows: names that must be among the sites.
        unseen: what ``Profile.skipped`` has to name.
        depths: of sites behind parts that are frozen, where the graph does not show them.
        recomputed: globs of sites that the graph of the loss does not hold, so that nothing is
            known of branches.
        needs: a package that may be missing.
    """

    name: str
    make: Callable[[], nn.Module]
    batches: Callable[[], list[Any]]
    loss: Callable[[Any, Any], Tensor] = cross_entropy
    step: Callable[[nn.Module, Any], Tensor] | None = None
    units_at_1: tuple[str, ...] = ()
    samples_at_1: tuple[str, ...] = ()
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None
    reduction: str = "mean"
    attention: bool = False
    rounding: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    depths: dict[str, int] = field(default_factory=dict)
    recomputed: tuple[str, ...] = ()
    needs: str | None = None

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return self.make()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def pairs(
    *shape: int, classes: int = 3, samples: int = 16, count: int = STEPS + FURTHER,
    dtype: torch.dtype = torch.float32,
) -> Callable[[], list[tuple[Tensor, Tensor]]]:  # fmt: skip
    """Batches of inputs (samples, ...) and classes."""

    def make() -> list[tuple[Tensor, Tensor]]:
        source = generator()
        return [
            (
                torch.randn(samples, *shape, generator=source, dtype=dtype),
                torch.randint(classes, (samples,), generator=source),
            )
            for _ in range(count)
        ]

    return make


def tokens(
    length: int, vocabulary: int = 13, samples: int = 12, count: int = STEPS + FURTHER
) -> Callable[[], list[tuple[Tensor, Tensor]]]:
    """Batches of token numbers (samples, length) and classes (samples,) out of three."""

    def make() -> list[tuple[Tensor, Tensor]]:
        source = generator()
        return [
            (
                torch.randint(vocabulary, (samples, length), generator=source),
                torch.randint(3, (samples,), generator=source),
            )
            for _ in range(count)
        ]

    return make


def next_token(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(output[:, :-1].flatten(0, 1), batch[0][:, 1:].flatten())


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


IMAGES = pairs(3, 8, 8, samples=12)
