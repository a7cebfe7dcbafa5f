"""How noisy a batch's gradient is: batches passed whole, and half of each."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence

from gradscope.batches import Batch, batch_size, half
from gradscope.errors import ModelError
from gradscope.profile.exchange import Exchange
from gradscope.records import GradientNoise

__all__ = ["NOISE_BATCHES", "gradient_noise"]

NOISE_BATCHES = 4
"""Batches it is estimated from."""


def gradient_noise(
    squared_gradient: Callable[[Batch], float],
    batches: Sequence[Batch],
    exchange: Exchange,
    *,
    known: Sequence[float] = (),
    summed: bool,
) -> GradientNoise:
    """Estimates the squared norm and the covariance of the gradient (McCandlish et al. 2018, A.1).

    Args:
        squared_gradient: the squared norm of the gradient of a batch's loss.
        batches: of the same number of samples each, two at least.
        exchange: the processes that pass other samples at the same time.
        known: squared norms of the gradients of the whole batches, where they have been measured.
        summed: whether the loss is a sum over samples, not a mean.

    Raises:
        ModelError: a batch cannot be divided, or a half of it fails.
    """
    small: list[float] = []
    large: list[float] = []
    sizes: list[tuple[int, int]] = []
    for number, batch in enumerate(batches):
        part = half(batch)
        # Before anything waits for another process, all know that none will stop.
        if not exchange.everyone(part is not None) or part is None:
            raise ModelError("a batch cannot be divided into halves")
        size = batch_size(part), batch_size(batch)
        small.append(squared_gradient(part) / (size[0] ** 2 if summed else 1))
        whole = known[number] if known else squared_gradient(batch)
        large.append(whole / (size[1] ** 2 if summed else 1))
        sizes.append(size)
    if any(one != other for one, other in itertools.pairwise(sizes)):
        raise ModelError("the batches hold different numbers of samples")
    few, many = (size * exchange.batches for size in sizes[0])
    one, whole = statistics.fmean(small), statistics.fmean(large)
    return GradientNoise(
        batches=len(sizes),
        samples=few,
        squared_norm=(many * whole - few * one) / (many - few),
        covariance=(one - whole) / (1 / few - 1 / many),
    )
