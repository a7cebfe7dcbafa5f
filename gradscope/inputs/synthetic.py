"""Made-up batches, for a look at a model without data. What they show is marked ``synthetic``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gradscope.batches import Batch, call_model, outermost, own_loss, tensors_in
from gradscope.checked import one_line, refuse_lazy
from gradscope.errors import ModelError
from gradscope.inputs import transformers_config
from gradscope.inputs.arguments import MadeUp, arguments
from gradscope.inputs.probe import draw, elements_of, first_that_passes, passes, placed
from gradscope.subject import Subject

__all__ = [
    "inferred_batches",
    "made_up_step",
    "on_inferred_inputs",
    "on_random_inputs",
    "own_or_projected",
    "projected_loss",
]

_SAMPLES = 32
_BATCHES = 64
_FEWEST_SAMPLES = 8
_MOST_ELEMENTS = 2**20
"""Of a batch: 32 images of 96 x 96 pixels, 8 of 224 x 224."""

_LARGE_MODEL = 10**7
"""Parameters from which a batch holds the fewest samples."""


class _RandomInputs:
    """Standard normal batches; the same ones on every pass."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(_BATCHES):
            yield torch.randn(_SAMPLES, *self._shape, generator=generator, device="cpu")


class _MadeUpBatches:
    """Batches for one model; the same ones on every pass."""

    def __init__(self, model: nn.Module, make: Callable[[Generator], Batch]) -> None:
        self._model, self._make = model, make

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(_BATCHES):
            yield placed(self._make(generator), self._model)


def on_random_inputs(subject: Subject, shape: tuple[int, ...], *, has_loss: bool) -> Subject:
    """The subject on standard normal inputs of ``shape`` (without the batch of 32).

    Inputs get the type of the model's first real parameter. Without a loss of its own, the loss is
    :func:`own_or_projected`.
    """
    return replace(
        subject,
        build_data=lambda: _RandomInputs(shape),
        step=_in_the_models_type(subject.step if has_loss else made_up_step),
        evaluate=None,
        synthetic=True,
    )


def on_inferred_inputs(
    subject: Subject, *, has_loss: bool, model: nn.Module | None = None
) -> Subject:
    """The subject on inputs that its model is found to take, once the data is built.

    Without a loss of its own, the loss is :func:`own_or_projected`. ``model`` is one of the
    subject's that is there already; without it one is built to find out.
    """
    return replace(
        subject,
        build_data=lambda: inferred_batches(subject.build_model() if model is None else model),
        step=subject.step if has_loss else made_up_step,
        evaluate=None,
        synthetic=True,
    )


def inferred_batches(model: nn.Module) -> Iterable[Batch]:
    """Made-up batches that the model takes, found out by passing some; the model is left alone.

    Layers tell what may be passed: images where there are convolutions, numbers of tokens where
    there are embeddings, and so on (:mod:`gradscope.inputs.layers`). A model of Hugging Face's says
    it in its ``config``, and gets labels where it computes its own loss.

    Returns:
        64 batches of 32 samples (8 to 31 of large ones, or for large models), the same ones on
        every pass, drawn without touching the global random state; in the model's type and on
        its device. Tensors, or mappings where ``forward`` needs several arguments.

    Raises:
        ModelError: nothing that can be made up passes, or ``forward`` needs something unknown.
    """
    refuse_lazy(model)
    if transformers_config.is_of_its_kind(model):
        return _by_config(model)

    def make(made_up: MadeUp, generator: Generator) -> Batch:
        return draw(made_up, _samples(model, elements_of(made_up)), generator)

    found, failure = first_that_passes(
        model,
        arguments(model),
        lambda made_up: placed(make(made_up, Generator().manual_seed(0)), model),
    )
    if found is None:
        raise _nothing_passes(model, failure)
    chosen = found
    return _MadeUpBatches(model, lambda generator: make(chosen, generator))


def own_or_projected(output: Any) -> Tensor:
    """The loss that the output carries, else :func:`projected_loss`.

    Raises:
        ModelError: as :func:`projected_loss`.
    """
    own = own_loss(output)
    return projected_loss(output) if own is None else own


def projected_loss(output: Any) -> Tensor:
    """The mean over samples of a fixed random projection of an output.

    Projected is each real tensor of the output that has a row for each sample, ``(samples, ...)``:
    a model may have several heads. What is nested deeper (hidden states, a cache) counts only
    where there is nothing else, since a loss seldom reaches into the middle of a model. The
    gradient at what is projected is standard normal over the number of samples, and depends on no
    targets.

    Raises:
        ModelError: the output holds no real tensor with samples.
    """
    real = [each for each in outermost(output) if each.is_floating_point() and each.ndim]
    if not real:
        raise ModelError(
            f"The model returned no real tensor to make a loss of (its output is of type "
            f"{type(output).__name__}); name a loss with --loss FILE.py:NAME (from Python: loss=)."
        )
    samples = len(real[0])
    generator = torch.Generator().manual_seed(1)
    projections = []
    for tensor in real:
        if len(tensor) == samples:
            direction = torch.randn(tensor.shape[1:], generator=generator, device="cpu")
            projections.append((tensor * direction.to(tensor)).sum())
    return sum(projections[1:], projections[0]) / samples


def made_up_step(model: nn.Module, batch: Batch) -> Tensor:
    """The step that takes :func:`own_or_projected` of the model's output."""
    return own_or_projected(call_model(model, batch))


def _in_the_models_type(
    step: Callable[[nn.Module, Batch], Tensor],
) -> Callable[[nn.Module, Batch], Tensor]:
    def typed(model: nn.Module, batch: Tensor) -> Tensor:
        real = (weight.dtype for weight in model.parameters() if weight.is_floating_point())
        return step(model, batch.to(next(real, batch.dtype)))

    return typed


def _by_config(model: nn.Module) -> Iterable[Batch]:
    """Batches for a model of Hugging Face's: the first that passes of what its config tells."""
    failure: BaseException | None = None
    for drawn in transformers_config.draws(model):
        try:
            one = tensors_in(drawn(1, Generator().manual_seed(0)))
            samples = _samples(model, max(tensor.numel() for tensor in one))
            batches = _MadeUpBatches(model, functools.partial(drawn, samples))
            passes(model, next(iter(batches)), train=True)
        except Exception as error:
            failure = failure or error
        else:
            return batches
    raise _nothing_passes(model, failure)


def _samples(model: nn.Module, elements: int) -> int:
    """How many samples of that many elements a batch holds."""
    if sum(parameter.numel() for parameter in model.parameters()) >= _LARGE_MODEL:
        return _FEWEST_SAMPLES
    return max(_FEWEST_SAMPLES, min(_SAMPLES, _MOST_ELEMENTS // max(1, elements)))


def _nothing_passes(model: nn.Module, failure: BaseException | None) -> ModelError:
    reason = "" if failure is None else f" (the first raised {one_line(failure):.200})"
    error = ModelError(
        f"No inputs that were made up pass {type(model).__name__}{reason}; give --data "
        "FILE.py:NAME or --input-shape (from Python: batches=)."
    )
    error.__cause__ = failure
    return error
