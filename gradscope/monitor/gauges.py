"""What is measured at the sites of a sampled step: reductions into memory that is laid out once.

Each reduction runs at the moment the tensor is there, on the device where it is, and ends in a slot
of one flat tensor. Nothing is kept of the tensors themselves, and no value is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.monitor.finding import FoundSite, partial_sum
from gradscope.profile.sharding import local
from gradscope.profile.site import observable

__all__ = ["Gauge", "Gauges"]

# Above this many elements only evenly spaced samples of an output are reduced: the error of a mean
# square over n of them is that of drawing n. 2 to the 20 float32 take a fifth of a millisecond.
_ELEMENTS = 1 << 20

_ALL = 1 << 62

# Bounded activations compare each element with two ends, which is slower than a maximum: they are
# looked at on so many observations of each unit.
_OBSERVATIONS = 256

# Reducing over samples and positions at once is slow (measured on CPU: 685 against 39 microseconds
# for 32 x 512 x 4 x 4); in two stages, the longer one last where it is contiguous.
_MANY_POSITIONS = 64

_FLOAT32, _FLOAT64 = torch.float32, torch.float64


class Gauge:
    """The measuring of one site.

    Attributes:
        site: where it is.
        elements: how many elements of the output the forward norm is of, in this step so far.
        gradient_elements: likewise of the gradient.
        observations: samples times positions seen of each unit in this step.
        bounded_observations: of these, how many were compared with the bounds.
        factor: what the gradient's RMS has to be multiplied by for a loss without its mean over
            the batch.
        seen: whether a forward pass outside of any backward pass was measured in this step.
        types: what norms are computed in, forward and backward. Squares of float32 below 1e-19 are
            zero, above 1e19 infinite: where a norm was either, it is float64 from then on.
        hook: what is put on outputs: ``see_gradient``, in what keeps its errors from training.
    """

    __slots__ = (
        "_is_layer", "_limit", "bounded_observations", "elements", "factor", "forward", "gradient",
        "gradient_elements", "highs", "hook", "lows", "observations", "saturated", "seen", "site",
        "types", "units",
    )  # fmt: skip

    def __init__(self, site: FoundSite, limit: int) -> None:
        self.site = site
        record = site.record
        parts = 1 if site.shard is None or site.shard.axis != record.unit_axis else site.shard.parts
        self.units = record.counted_units
        self.units //= parts if self.units % parts == 0 else 1
        self._limit, self._is_layer = limit, record.role == "layer"
        self.types = [_FLOAT64 if record.dtype == "float64" else _FLOAT32] * 2
        self.forward = self.gradient = self.highs = self.lows = self.saturated = torch.empty(0)
        self.hook: Callable[[Tensor], None] = self.see_gradient
        self.clear()

    def clear(self) -> None:
        """Before a step."""
        self.elements = self.gradient_elements = self.observations = self.bounded_observations = 0
        self.factor, self.seen = 0.0, False

    @property
    def counts(self) -> tuple[float, ...]:
        """Elements forward and backward, factor, observations, those compared with bounds."""
        return (
            self.elements,
            self.gradient_elements,
            self.factor,
            self.observations,
            self.bounded_observations,
        )

    def see(self, y: Tensor, *, again: bool) -> None:
        """Takes an output, and asks for its gradient; ``again`` in a recomputed forward."""
        if again and self.seen:
            return
        self.seen = self.seen or not again
        if y.requires_grad:
            (_behind(y) if self._is_layer else y).register_hook(self.hook)
        x = _held(y.detach())
        if x is None or not observable(x):
            return
        count = x.numel()
        axis = self.site.unit_axis
        if count > self._limit and x.ndim > 1 and axis != 0:
            x = x[:: math.ceil(count / self._limit)]
            count = x.numel()
        if not count:
            return
        self._norm(x, 0, self.forward, not self.elements)
        self.elements += count
        self.factor = y.shape[0] * self.site.samples / self.site.rows if y.ndim else 1.0
        if not self.units or (x.shape[axis] if axis is not None else 1) != self.units:
            return
        observations = count // self.units
        record = self.site.record
        if record.dead_zone:
            self._extremes(x, axis, not self.observations)
        if record.bounded:
            self._count_saturated(x, axis, observations)
        self.observations += observations

    def see_gradient(self, gradient: Tensor) -> None:
        """Takes the gradient of an output."""
        x = _held(gradient.detach())
        if x is None or not x.numel():
            return
        count = x.numel()
        if count > self._limit and x.ndim > 1:
            x = x[:: math.ceil(count / self._limit)]
            count = x.numel()
        self._norm(x, 1, self.gradient, not self.gradient_elements)
        self.gradient_elements += count

    def _norm(self, x: Tensor, which: int, slot: Tensor, first: bool) -> None:
        kind = _FLOAT64 if x.dtype is _FLOAT64 else self.types[which]
        if first and kind is _FLOAT32 and x.device == slot.device:
            torch.linalg.vector_norm(x, dtype=kind, out=slot)
            return
        norm = torch.linalg.vector_norm(x, dtype=kind)
        if first:
            slot.copy_(norm)
        else:
            torch.hypot(slot, norm.to(slot), out=slot)

    def _extremes(self, x: Tensor, axis: int | None, first: bool) -> None:
        plain = x.dtype is _FLOAT32 and x.device == self.highs.device
        if first and plain and axis == 1 and x.ndim == 2:
            torch.amax(x, 0, out=self.highs)
            torch.amin(x, 0, out=self.lows)
            return
        if axis is None:
            axis, x = 1, x.reshape(-1, 1)
        if axis == 1 and x.ndim > 2:
            x = x.flatten(2)
            stages: tuple[Any, ...] = (2, 0) if x.shape[2] >= _MANY_POSITIONS else (0, 1)
        else:
            stages = (tuple(dim for dim in range(x.ndim) if dim != axis),)
        high = low = x
        for dims in stages:
            high, low = high.amax(dims), low.amin(dims)
        if first:
            self.highs.copy_(high)
            self.lows.copy_(low)
        else:
            torch.maximum(self.highs, high.to(self.highs), out=self.highs)
            torch.minimum(self.lows, low.to(self.lows), out=self.lows)

    def _count_saturated(self, x: Tensor, axis: int | None, observations: int) -> None:
        assert self.site.bounds is not None
        low, high = self.site.bounds
        if axis is None:
            axis, x = 1, x.reshape(-1, 1)
        if x.shape[0] > 1 and axis != 0:
            x = x[:: max(1, observations // _OBSERVATIONS)]
        dims = tuple(dim for dim in range(x.ndim) if dim != axis)
        counted = ((x <= low) | (x >= high)).sum(dims, dtype=_FLOAT32)
        if self.bounded_observations:
            self.saturated.add_(counted.to(self.saturated.device))
        else:
            self.saturated.copy_(counted)
        self.bounded_observations += x.numel() // x.shape[axis]


def _behind(y: Tensor) -> Tensor:
    """What a linear layer has computed where it returns a view of it, as for three axes.

    Written to in place, the view would leave the graph with its hooks.
    """
    base = y._base if y._is_view() else None
    if base is None or base.grad_fn is None or base.numel() != y.numel():
        return y
    return base


def _held(x: Tensor) -> Tensor | None:
    """What this process holds of a tensor; None of sums that are still to be added up."""
    if type(x) is Tensor:
        return x
    return None if partial_sum(x) else local(x)


class Gauges:
    """All gauges of a model, and the memory that they write into.

    Attributes:
        each: one for each site, in execution order.
        starts: where the units of each site begin among those of all.
        units: how many units there are in all.
    """

    def __init__(self, sites: Sequence[FoundSite], *, exact: bool) -> None:
        self.each = [Gauge(site, _ALL if exact else _ELEMENTS) for site in sites]
        self.starts = []
        self.units = 0
        for gauge in self.each:
            self.starts.append(self.units)
            self.units += gauge.units

    @property
    def size(self) -> int:
        """How many numbers they write."""
        return 2 * len(self.each) + 3 * self.units

    def write_into(self, memory: Tensor) -> None:
        """From now on; float32 (size).

        The norms forward, the norms backward, the maxima of all units, their minima, and how often
        they were saturated.
        """
        count = len(self.each)
        highs, lows, saturated = memory[2 * count :].view(3, self.units)
        for index, (gauge, start) in enumerate(zip(self.each, self.starts, strict=True)):
            gauge.forward, gauge.gradient = memory[index], memory[count + index]
            gauge.highs = highs[start : start + gauge.units]
            gauge.lows = lows[start : start + gauge.units]
            gauge.saturated = saturated[start : start + gauge.units]

    def clear(self) -> None:
        """Before a step."""
        for gauge in self.each:
            gauge.clear()
