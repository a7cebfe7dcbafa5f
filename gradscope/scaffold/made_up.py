"""The inputs that a model was found to take, as code that makes them up."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.batches import Batch, tensors_in
from gradscope.inputs import inferred_batches
from gradscope.scaffold.spelling import literal

__all__ = ["Inputs", "shape"]

_LOOKED_AT = 8
"""Batches: integers in more of them come closer to the largest that there is."""


class Inputs:
    """Batches that the model takes.

    Attributes:
        batch: one of them: a tensor, or a mapping.

    Raises:
        ModelError: none were found.
    """

    def __init__(self, model: nn.Module) -> None:
        self._some: list[Batch] = list(itertools.islice(inferred_batches(model), _LOOKED_AT))
        self._sizes = _sizes(model)
        self.batch: Batch = self._some[0]

    @property
    def main(self) -> Tensor:
        """The first tensor."""
        return next(tensors_in(self.batch))

    def described(self) -> str:
        """Types and shapes, for people."""
        if not isinstance(self.batch, Mapping):
            return _described(self.batch)
        return ", ".join(f"{name} {_described(value)}" for name, value in self.batch.items())

    def lines(self, name: str) -> list[str]:
        """Statements that set ``name`` to a batch of the same kind."""
        if not isinstance(self.batch, Mapping):
            return [f"{name} = {self._code(self._some)}"]
        lines = [f"{name} = {{"]
        after = []
        values = list(self.batch.items())
        for key, value in values:
            same = next((other for other, each in values if _equal(each, value)), key)
            if same != key:
                # Labels of language models are their tokens.
                after.append(f"{name}[{literal(key)}] = {name}[{literal(same)}].clone()")
                continue
            lines.append(f"    {literal(key)}: {self._code([each[key] for each in self._some])},")
        return [*lines, "}", *after]

    def _code(self, drawn: Iterable[Any]) -> str:
        first, *others = drawn
        if not isinstance(first, Tensor):
            return repr(first)
        if first.is_floating_point():
            return f"torch.randn({_extents(first.shape)}{_type(first, torch.float32)})"
        if bool((first == first.flatten()[0]).all()) and all(
            torch.equal(first, each) for each in others
        ):
            value = int(first.flatten()[0])
            return f"torch.full({shape(first.shape)}, {value})"
        if first.ndim > 1 and torch.equal(first, torch.arange(first.shape[-1]).expand_as(first)):
            return f"torch.arange({first.shape[-1]}).expand({_extents(first.shape)})"
        below = 1 + max(int(each.max()) for each in (first, *others))
        below = min((size for size in self._sizes if size >= below), default=below)
        return f"torch.randint({below}, {shape(first.shape)}{_type(first, torch.int64)})"


def shape(extents: Iterable[int]) -> str:
    """A shape as a tuple is spelled."""
    return repr(tuple(extents))


def _sizes(model: nn.Module) -> list[int]:
    """Numbers below which a model may want its integers: rows of its tables, and classes."""
    tables = (each for each in model.modules() if isinstance(each, (nn.Embedding, nn.EmbeddingBag)))
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    known = {each.num_embeddings for each in tables}
    return sorted(known | ({classes} if isinstance(classes, int) else set()))


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{str(value.dtype).removeprefix('torch.')} of {'x'.join(map(str, value.shape))}"


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)


def _extents(extents: Iterable[int]) -> str:
    return ", ".join(map(str, extents))


def _type(tensor: Tensor, usual: torch.dtype) -> str:
    return "" if tensor.dtype is usual else f", dtype={tensor.dtype}"
