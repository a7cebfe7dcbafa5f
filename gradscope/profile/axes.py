"""What the axes of a tensor are, and what each call of torch's does to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Layout",
    "Shard",
    "after",
    "makes_units",
    "order_of",
    "same",
    "samples_first",
    "shard_of_ordered",
]


@dataclass(frozen=True, slots=True)
class Shard:
    """This process holds one part of several along an axis of a tensor (tensor parallelism)."""

    axis: int
    part: int
    parts: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What the axes of a tensor are; None where that is not known.

    Attributes:
        samples: the axis of samples.
        units: the axis of features or channels.
        shard: of which axis this process holds a part.
        passed: how many sites the data has passed, one behind the other.
    """

    samples: int | None = None
    units: int | None = None
    shard: Shard | None = None
    passed: int = 0

    def moved(self, move: Callable[[int], int | None]) -> Layout:
        """The layout after each axis has gone where ``move`` says."""
        samples = None if self.samples is None else move(self.samples)
        units = None if self.units is None else move(self.units)
        shard = self.shard
        if shard is not None:
            axis = move(shard.axis)
            shard = None if axis is None else replace(shard, axis=axis)
        return Layout(samples, units, shard, self.passed)


def order_of(x: Tensor, layout: Layout) -> list[int]:
    """The axes of ``x`` with the one of samples first."""
    samples = layout.samples if layout.samples is not None and layout.samples < x.ndim else 0
    return [samples, *(axis for axis in range(x.ndim) if axis != samples)]


def samples_first(x: Tensor, layout: Layout) -> tuple[Tensor, int]:
    """``x`` as (samples, ...), at least two axes, and which of them counts units."""
    if x.ndim < 2:
        return x.reshape(-1, 1), 1
    order = order_of(x, layout)
    units = x.ndim - 1
    if layout.units is not None and layout.units < x.ndim and order.index(layout.units) != 0:
        units = order.index(layout.units)
    return x.permute(order), units


def shard_of_ordered(x: Tensor, layout: Layout) -> Shard | None:
    """The part that this process holds, along the axis where it is with samples first."""
    if layout.shard is None or layout.shard.axis >= x.ndim:
        return None
    return replace(layout.shard, axis=order_of(x, layout).index(layout.shard.axis))


# What calls do to axes: functions of the input's layout and shape, the output's shape, and the
# call's own arguments (without the tensor).
Rule = Callable[[Layout, tuple[int, ...], tuple[int, ...], tuple[Any, ...]], Layout]

_CHANNELS_SECOND = (
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "batch_norm", "instance_norm", "group_norm",
)  # fmt: skip
_FEATURES_LAST = (
    "linear", "bilinear", "embedding", "embedding_bag", "lstm", "gru", "rnn_tanh", "rnn_relu",
    "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "scaled_dot_product_attention",
    "multi_head_attention_forward", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm",
    "baddbmm",
)  # fmt: skip


def makes_units(name: str) -> bool:
    """Whether the call is a layer's, which says by itself where its units are."""
    return name in _CHANNELS_SECOND or name in _FEATURES_LAST


def same(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], _: Any) -> Layout:
    """Calls that leave axes where they are; of others, what the shapes tell."""
    if len(shape) == len(out):
        return layout
    samples = layout.samples
    if samples is None or samples >= min(len(shape), len(out)) or shape[samples] != out[samples]:
        samples = None
    return Layout(samples)


def _numbers(rest: tuple[Any, ...]) -> list[int]:
    """Dimensions, given as numbers or as a sequence of them."""
    if rest and isinstance(rest[0], (tuple, list)):
        return [int(value) for value in rest[0]]
    return [int(value) for value in rest]


def _permuted(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], rest: Any) -> Layout:
    order = [dim % len(shape) for dim in _numbers(rest)]
    return layout.moved(order.index)


def _swapped(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], rest: Any) -> Layout:
    one, other = (dim % len(shape) for dim in _numbers(rest)) if rest else (-2, -1)
    one, other = one % len(shape), other % len(shape)
    return layout.moved(lambda axis: {one: other, other: one}.get(axis, axis))


def _reversed(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], _: Any) -> Layout:
    return layout.moved(lambda axis: len(shape) - 1 - axis)


def _movedim(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], rest: Any) -> Layout:
    sources, targets = (
        [dim % len(shape) for dim in (value if isinstance(value, (tuple, list)) else (value,))]
        for value in rest[:2]
    )
    order = [dim for dim in range(len(shape)) if dim not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return layout.moved(order.index)


def _reshaped(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], _: Any) -> Layout:
    """An axis is found again by how many elements lie before it.

    Merged with others it stands where the merged one is; split up, where its first part is.
    """
    if not math.prod(out) or math.prod(shape) != math.prod(out):
        return same(layout, shape, out, ())
    before = list(accumulate(out, lambda x, y: x * y, initial=1))

    def move(axis: int) -> int | None:
        offset = math.prod(shape[:axis])
        # Extents of one share an offset: the axis of the right extent, else the last.
        places = [j for j in range(len(out)) if before[j] <= offset < before[j + 1]]
        exact = [j for j in range(len(out)) if before[j] == offset and out[j] == shape[axis]]
        return next(iter(exact or places), None)

    moved = layout.moved(move)
    if layout.shard is not None and len(out) > len(shape):
        # Heads are dealt out to processes, not what is inside of a head.
        start = math.prod(shape[: layout.shard.axis])
        return replace(moved, shard=replace(layout.shard, axis=before.index(start)))
    return moved


def _inserted(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], rest: Any) -> Layout:
    dim = int(rest[0] if rest else 0) % len(out)
    return layout.moved(lambda axis: axis + (axis >= dim))


def _broadcast(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], _: Any) -> Layout:
    """New axes come in front."""
    return layout.moved(lambda axis: axis + len(out) - len(shape))


def _removed(dims: set[int]) -> Callable[[int], int | None]:
    return lambda axis: None if axis in dims else axis - sum(dim < axis for dim in dims)


def _reduced(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], rest: Any) -> Layout:
    if len(out) == len(shape):
        return layout
    given = rest[0] if rest and isinstance(rest[0], (tuple, list)) else rest[:1]
    return layout.moved(_removed({int(dim) % len(shape) for dim in given}))


def _selected(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], rest: Any) -> Layout:
    dim = int(rest[0] if rest else 0) % len(shape)
    return layout.moved(_removed({dim}))


def _squeezed(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], rest: Any) -> Layout:
    dims = {dim % len(shape) for dim in _numbers(rest)} if rest else set(range(len(shape)))
    return layout.moved(_removed({dim for dim in dims if shape[dim] == 1}))


def _indexed(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], rest: Any) -> Layout:
    """Numbers take an axis away, None adds one; a mask takes the place of the axes it covers."""
    index = list(rest[0]) if isinstance(rest[0], tuple) else [rest[0]]
    taken = sum(_covers(entry) for entry in index)
    if Ellipsis in [entry for entry in index if not isinstance(entry, Tensor)]:
        place = next(i for i, entry in enumerate(index) if entry is Ellipsis)
        index[place : place + 1] = [slice(None)] * (len(shape) - taken)
    places: dict[int, int] = {}
    axis = target = 0
    for entry in index:
        if entry is None:
            target += 1
        elif isinstance(entry, int):
            axis += 1
        else:
            places[axis] = target
            axis += _covers(entry)
            target += 1
    for rest_axis in range(axis, len(shape)):
        places[rest_axis] = target + rest_axis - axis
    return layout.moved(places.get)


def _covers(entry: Any) -> int:
    """How many axes one entry of an index stands for."""
    if entry is None or entry is Ellipsis:
        return 0
    if isinstance(entry, Tensor) and entry.dtype == torch.bool:
        return max(1, entry.ndim)
    return 1


def _contracted(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...], rest: Any) -> Layout:
    """``einsum``: samples stay where the shapes allow it, and units are taken to end up last."""
    return replace(same(layout, shape, out, ()), units=len(out) - 1, shard=None)


_RULES: dict[str, Rule] = {
    "permute": _permuted,
    "transpose": _swapped,
    "swapaxes": _swapped,
    "swapdims": _swapped,
    "t": _swapped,
    "mT": _swapped,
    "T": _reversed,
    "movedim": _movedim,
    "moveaxis": _movedim,
    "view": _reshaped,
    "view_as": _reshaped,
    "reshape": _reshaped,
    "reshape_as": _reshaped,
    "flatten": _reshaped,
    "unflatten": _reshaped,
    "unsqueeze": _inserted,
    "stack": _inserted,
    "expand": _broadcast,
    "expand_as": _broadcast,
    "broadcast_to": _broadcast,
    "repeat": _broadcast,
    "squeeze": _squeezed,
    "mean": _reduced,
    "sum": _reduced,
    "amax": _reduced,
    "amin": _reduced,
    "max": _reduced,
    "min": _reduced,
    "logsumexp": _reduced,
    "std": _reduced,
    "var": _reduced,
    "select": _selected,
    "unbind": _selected,
    "__getitem__": _indexed,
    "einsum": _contracted,
}


def after(
    name: str,
    layout: Layout,
    shape: tuple[int, ...],
    out: tuple[int, ...],
    rest: tuple[Any, ...],
) -> Layout:
    """The layout of what a call returned.

    Args:
        name: of the function.
        layout, shape: of the tensor it was called on.
        out: shape of what it returned.
        rest: the call's other arguments.
    """
    if name in _CHANNELS_SECOND:
        batched = not name.startswith("conv") or len(out) == int(name[-2]) + 2
        kept = layout if len(shape) == len(out) else Layout()
        units = 1 if batched else 0
        samples = 0 if batched else None
        return replace(kept, samples=samples, units=min(units, len(out) - 1))
    if name in _FEATURES_LAST:
        if not out:
            return Layout()
        kept = same(layout, shape, out, ())
        # Other axes than the last are gone through one by one, each part on its own process.
        shard = kept.shard if kept.shard and kept.shard.axis < len(out) - 1 else None
        return replace(kept, units=len(out) - 1, shard=shard)
    try:
        rule: Rule = _RULES.get(name, same)
        return rule(layout, shape, out, rest)
    except Exception:
        # A form of the call that is not known here: shapes have to tell. It must not be the model
        # that fails.
        return same(layout, shape, out, ())
