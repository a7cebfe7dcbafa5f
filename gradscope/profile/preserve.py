"""Leaves a model as it was found, whatever happened to it in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gradscope.randomness import preserved_randomness

__all__ = ["preserved"]


@contextmanager
def preserved(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Puts back what passing batches through a model changes.

    That is: the global random state, each module's train or eval mode, each parameter's
    ``requires_grad`` and ``.grad`` (the same tensor object, never written to), and each buffer
    (the same tensor object with the same values). Inside, gradients start as None and the random
    generators are seeded with ``seed`` where one is given.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()
    ]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    with preserved_randomness(seed):
        try:
            for parameter, _, _ in gradients:
                parameter.grad = None
            yield
        finally:
            for parameter, required, gradient in gradients:
                parameter.requires_grad_(required)
                parameter.grad = gradient
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    if buffer is not None and value is not None:
                        buffer.copy_(value)
                    module._buffers[name] = buffer
            for module, training in modes:
                module.training = training
