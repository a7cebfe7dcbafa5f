"""Made-up batches, for a look at a model without data. What they show is marked ``synthetic``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradscope.errors import ModelError
from gradscope.subject import Subject, call_model, tensors_in

__all__ = ["on_random_inputs"]

_SAMPLES = 32
_BATCHES = 64


class _RandomInputs:
    """Standard normal batches; the same ones on every pass."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(_BATCHES):
            yield torch.randn(_SAMPLES, *self._shape, generator=generator)


def on_random_inputs(subject: Subject, shape: tuple[int, ...], *, has_loss: bool) -> Subject:
    """The subject on standard normal inputs of ``shape`` (without the batch of 32).

    Without a loss of its own, the loss is the mean over samples of a fixed random projection of
    the output: its gradient at the output is of scale one, and depends on no targets.
    """
    return replace(
        subject,
        build_data=lambda: _RandomInputs(shape),
        step=subject.step if has_loss else _projected,
        evaluate=None,
        synthetic=True,
    )


def _projected(model: nn.Module, batch: Tensor) -> Tensor:
    output = next(tensors_in(call_model(model, batch)), None)
    if output is None or not output.is_floating_point():
        raise ModelError(
            f"{type(model).__name__} returned no real tensor to make a loss of; name one with "
            "--loss FILE.py:NAME."
        )
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(output.shape[1:], generator=generator).to(output)
    return (output * direction).flatten(1).sum(dim=1).mean()
