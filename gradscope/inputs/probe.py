"""Finds out what a model takes, by passing it small made-up batches until one goes through.

That a batch goes through does not mean that it is meant: a matrix passes an LSTM as one sequence
without a batch, and ``x.view(-1, 400)`` takes images of wrong sizes by mixing samples. So an input
is taken at once only where the output has a row for each sample which depends on that sample
alone, and no convolution is left with a map of a single position. Where none is as good as that
(a model may mix its samples on purpose), the best of those that went through is taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gradscope.batches import Batch, call_model, tensors_in
from gradscope.inputs.arguments import MadeUp
from gradscope.inputs.layers import Input

__all__ = ["draw", "elements_of", "first_that_passes", "passes", "placed"]

_SAMPLES = 5
"""Neither a number of channels nor of much else, so that dimensions are not mistaken."""

_LARGE = 3 * 128 * 128
"""Elements of a sample up to which something better is looked for once something has passed."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LOOKING_UP = (nn.Embedding.forward, nn.EmbeddingBag.forward)

_TOLERANCE = 1e-3
"""Relative; rounding may depend on what the other samples are."""


def first_that_passes(
    model: nn.Module,
    inputs: Iterable[MadeUp],
    confirmed: Callable[[MadeUp], Batch],
) -> tuple[MadeUp | None, BaseException | None]:
    """The first input that fits, else the best of those that pass at all.

    Args:
        model: left as it is.
        inputs: what to try, small ones first.
        confirmed: the batch that would be used; an input counts only where it passes in training
            mode, too.

    Returns:
        The input, or None; and why the first one did not pass, where it did not.
    """
    ranked: dict[int, MadeUp] = {}
    failure: BaseException | None = None
    for made_up in inputs:
        if ranked and elements_of(made_up) > _LARGE:
            continue
        try:
            rank = _rank(model, made_up)
            if rank not in ranked:
                passes(model, confirmed(made_up), train=True)
                ranked[rank] = made_up
        except Exception as error:
            failure = failure or error
            continue
        if rank == 0:
            break
    return (ranked[min(ranked)] if ranked else None), failure


def passes(model: nn.Module, batch: Batch, *, train: bool = False) -> Any:
    """The model's output for a batch, without gradients; the model is left as it is.

    Raises:
        Exception: whatever the model raised.
    """
    # The package that preserve lies in makes up inputs by way of this module.
    from gradscope.profile.preserve import preserved

    with preserved(model, seed=0), torch.no_grad(), warnings.catch_warnings():
        # What wrong guesses are warned of is nobody's concern.
        warnings.simplefilter("ignore")
        model.train(train)
        with _within_tables(model):
            return call_model(model, batch)


def draw(made_up: MadeUp, samples: int, generator: Generator) -> Batch:
    """A batch of made-up tensors: one, or several by their names."""
    if isinstance(made_up, Mapping):
        return {name: each.draw(samples, generator) for name, each in made_up.items()}
    return made_up.draw(samples, generator)


def elements_of(made_up: MadeUp) -> int:
    """How many elements a sample of the largest tensor has."""
    if isinstance(made_up, Mapping):
        return max(each.elements for each in made_up.values())
    return made_up.elements


def placed(batch: Batch, model: nn.Module) -> Batch:
    """Tensors and mappings of them on the model's device, real ones in the model's type."""
    if isinstance(batch, Mapping):
        return {name: placed(each, model) for name, each in batch.items()}
    if not isinstance(batch, Tensor):
        return batch
    weights = list(model.parameters())
    device = weights[0].device if weights else batch.device
    real = (weight.dtype for weight in weights if weight.is_floating_point())
    return batch.to(device, next(real, batch.dtype) if batch.is_floating_point() else batch.dtype)


def _rank(model: nn.Module, made_up: MadeUp) -> int:
    """How well an input fits, 0 the best.

    Raises:
        Exception: it does not pass.
    """
    generator = Generator().manual_seed(0)
    batch = placed(draw(made_up, _SAMPLES, generator), model)
    with _smallest_map(model) as positions:
        rows = _rows(passes(model, batch), made_up)
    if rows is None:
        return 3
    if rows.ndim and not _apart(model, batch, rows, made_up, generator):
        return 2
    return 1 if min(positions, default=2) < 2 else 0


def _rows(output: Any, made_up: MadeUp) -> Tensor | None:
    """The output with samples in front, a scalar where it is one, None where rows are missing."""
    real = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
    first = next((tensor for tensor in real if tensor.ndim), None)
    if first is None:
        return real[0] if real else None
    for axis in (0, _leading(made_up).samples_axis):
        if axis < first.ndim and first.shape[axis] == _SAMPLES:
            return first.movedim(axis, 0)
    return None


def _apart(
    model: nn.Module, batch: Batch, rows: Tensor, made_up: MadeUp, generator: Generator
) -> bool:
    """Whether other values in the first sample leave the outputs of the others as they were."""
    redrawn = placed(draw(made_up, _SAMPLES, generator), model)
    if isinstance(batch, Mapping):
        assert isinstance(made_up, Mapping)
        mixed = {name: _first_from(batch[name], redrawn[name], made_up[name]) for name in batch}
        again = _rows(passes(model, mixed), made_up)
    else:
        again = _rows(passes(model, _first_from(batch, redrawn, _leading(made_up))), made_up)
    if again is None or again.shape != rows.shape:
        return False
    was, now = rows[1:].double(), again[1:].double()
    scale = float(was.abs().max()) if was.numel() else 0.0
    return torch.allclose(was, now, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True)


def _first_from(batch: Tensor, other: Tensor, made_up: Input) -> Tensor:
    """The batch with its first sample taken from another one."""
    axis = made_up.samples_axis
    return torch.cat([other.narrow(axis, 0, 1), batch.narrow(axis, 1, _SAMPLES - 1)], axis)


def _leading(made_up: MadeUp) -> Input:
    return next(iter(made_up.values())) if isinstance(made_up, Mapping) else made_up


@contextmanager
def _smallest_map(model: nn.Module) -> Iterator[list[int]]:
    """Notes how many positions the outputs of convolutions over more than one position have."""
    positions: list[int] = []

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        kernel = getattr(module, "kernel_size", ())
        if max(kernel, default=1) > 1:
            positions.append(output.shape[-len(kernel) :].numel())

    with _hooked(
        model,
        lambda module: isinstance(module, _CONVOLUTIONS),
        lambda module: module.register_forward_hook(note),
    ):
        yield positions


@contextmanager
def _within_tables(model: nn.Module) -> Iterator[None]:
    """Refuses numbers that a table has no row for: on a GPU they would end the whole process."""

    def check(module: nn.Module, given: tuple[Any, ...]) -> None:
        rows = getattr(module, "num_embeddings", 0)
        if given and isinstance(given[0], Tensor) and given[0].numel():
            largest = int(given[0].max())
            if largest >= rows:
                raise IndexError(f"index {largest} is out of range for a table of {rows} rows")

    # Tables of positions that are derived from Embedding may be given something else.
    with _hooked(
        model,
        lambda module: getattr(type(module), "forward", None) in _LOOKING_UP,
        lambda module: module.register_forward_pre_hook(check),
    ):
        yield


@contextmanager
def _hooked(
    model: nn.Module, wanted: Callable[[nn.Module], bool], register: Callable[[nn.Module], Any]
) -> Iterator[None]:
    """Registers a hook with each module that is wanted, and removes it again."""
    handles = [register(module) for module in model.modules() if wanted(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
