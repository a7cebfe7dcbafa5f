"""How noisy a batch's gradient is: batches passed by halves and whole."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

from torch import Tensor, nn

from gradscope.batches import Batch, batch_size, halves
from gradscope.checked import backward
from gradscope.errors import ModelError
from gradscope.profile.exchange import Exchange
from gradscope.profile.parameters import Parameters
from gradscope.records import GradientNoise

__all__ = ["NOISE_BATCHES", "gradient_noise"]

NOISE_BATCHES = 4
"""Batches it is estimated from; each costs a forward and a backward pass."""


def gradient_noise(
    model: nn.Module,
    step: Callable[[nn.Module, Batch], Tensor],
    batches: list[Batch],
    parameters: Parameters,
    exchange: Exchange,
    *,
    summed: bool,
) -> GradientNoise:
    """Estimates the squared norm and the covariance of the gradient (McCandlish et al. 2018, A.1).

    The gradient of one half of a batch is squared, then that of the other half is added to it, so
    that no second gradient has to be kept.

    Args:
        model: in the mode it trains in; its gradients are overwritten.
        step: passes a batch forward and returns the loss.
        batches: each of two samples at least, the first of which tells how many.
        parameters: whose gradients are meant.
        exchange: the processes that pass other samples at the same time.
        summed: whether the loss is a sum over samples, not a mean.

    Raises:
        ModelError: a batch cannot be divided, or a half of it fails.
    """
    small: list[float] = []
    large: list[float] = []
    sizes: list[int] = []
    for batch in batches:
        parts = halves(batch)
        # Before anything waits for another process, all know that none will stop.
        if not exchange.everyone(parts is not None) or parts is None:
            raise ModelError("a batch cannot be divided into halves of the same size")
        sizes.append(batch_size(parts[0]))
        scale = sizes[-1] if summed else 1
        parameters.clear()
        for part, seen in zip(parts, (small, large), strict=True):
            loss = step(model, part)
            if not loss.requires_grad:
                raise ModelError("the loss depends on no parameter")
            backward(loss, model)
            seen.append(parameters.squared_gradient() / scale**2)
    parameters.clear()
    if any(one != other for one, other in itertools.pairwise(sizes)):
        raise ModelError("the batches hold different numbers of samples")
    samples = sizes[0] * exchange.batches
    one, whole = statistics.fmean(small), statistics.fmean(large) / 4
    return GradientNoise(
        batches=len(batches),
        samples=samples,
        squared_norm=2 * whole - one,
        covariance=2 * samples * (one - whole),
    )
