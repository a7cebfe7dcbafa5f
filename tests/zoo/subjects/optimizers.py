"""Optimizers as people set them up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn, optim

__all__ = [
    "BuildOptimizer",
    "adagrad",
    "adam",
    "adamw",
    "clipped",
    "rmsprop",
    "sgd",
    "warmed_up",
]

BuildOptimizer = Callable[[Iterable[nn.Parameter]], optim.Optimizer]


def sgd(lr: float = 0.05, momentum: float = 0.9, **options: Any) -> BuildOptimizer:
    return lambda parameters: optim.SGD(parameters, lr=lr, momentum=momentum, **options)


def adam(lr: float = 1e-3, **options: Any) -> BuildOptimizer:
    return lambda parameters: optim.Adam(parameters, lr=lr, **options)


def adamw(lr: float = 1e-3, weight_decay: float = 0.01, **options: Any) -> BuildOptimizer:
    return lambda parameters: optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, **options)


def rmsprop(lr: float = 1e-3, **options: Any) -> BuildOptimizer:
    return lambda parameters: optim.RMSprop(parameters, lr=lr, **options)


def adagrad(lr: float = 0.02, **options: Any) -> BuildOptimizer:
    return lambda parameters: optim.Adagrad(parameters, lr=lr, **options)


def clipped(build: BuildOptimizer, norm: float = 1.0) -> BuildOptimizer:
    """The same optimizer, with the gradient's norm clipped before each of its steps."""

    def build_clipped(parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        clipping = list(parameters)
        optimizer = build(clipping)
        optimizer.register_step_pre_hook(lambda *_: void(nn.utils.clip_grad_norm_(clipping, norm)))
        return optimizer

    return build_clipped


def warmed_up(build: BuildOptimizer, steps: int = 20) -> BuildOptimizer:
    """The same optimizer, with a learning rate that grows over the first steps."""

    def build_warmed_up(parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        optimizer = build(parameters)
        rising = optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / steps))
        optimizer.register_step_post_hook(lambda *_: rising.step())
        return optimizer

    return build_warmed_up


def void(_: object) -> None:
    """What a hook of an optimizer returns replaces its arguments."""
