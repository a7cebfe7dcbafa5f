"""Made-up batches, for a look at a model without data. What they show is marked ``synthetic``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradscope.batches import Batch, call_model, tensors_in
from gradscope.errors import ModelError
from gradscope.subject import Subject

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

    Inputs get the type of the model's first real parameter. Without a loss of its own, the loss is
    the mean over samples of a fixed random projection of the output: its gradient at the output is
    of scale one, and depends on no targets.
    """
    return replace(
        subject,
        build_data=lambda: _RandomInputs(shape),
        step=_in_the_models_type(subject.step if has_loss else _projected),
        evaluate=None,
        synthetic=True,
    )


def _in_the_models_type(
    step: Callable[[nn.Module, Batch], Tensor],
) -> Callable[[nn.Module, Batch], Tensor]:
    def typed(model: nn.Module, batch: Tensor) -> Tensor:
        real = (weight.dtype for weight in model.parameters() if weight.is_floating_point())
        return step(model, batch.to(next(real, batch.dtype)))

    return typed


def _projected(model: nn.Module, batch: Tensor) -> Tensor:
    output = next(tensors_in(call_model(model, batch)), None)
    if output is None or not output.is_floating_point() or not output.ndim:
        raise ModelError(
            f"{type(model).__name__} returned no real tensor to make a loss of; name one with "
            " --loss FILE.py:NAME."
        )
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(output.shape[1:], generator=generator).to(output)
    return (output * direction).sum() / len(output)
