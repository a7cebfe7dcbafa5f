"""What is gathered of an output or a gradient: sums that processes can add up, and what they make.

One process alone makes its numbers of its sums at once. Where several processes each hold some of
the samples, or some of the units, theirs are laid where they belong in the whole, and added.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.profile import statistics
from gradscope.profile.axes import Shard
from gradscope.profile.operators import Mask
from gradscope.profile.statistics import (
    CORRELATED_ELEMENTS,
    CORRELATED_SAMPLES,
    evenly,
    wide,
)

__all__ = [
    "PEAKS",
    "PLACED",
    "Place",
    "Sums",
    "feature_numbers",
    "feature_sums",
    "forward_sums",
    "gradient_numbers",
    "gradient_sums",
    "in_units",
    "numbers",
    "saturated_sums",
    "unit_sums",
]

Sums = dict[str, Tensor]
"""Tensors by name; adding those of all processes gives the ones of the whole."""

PEAKS = "peak"
"""The one entry that has a place for each process, not a sum."""

PLACED = ("rows", "features")
"""The entries whose rows each process lays where they belong among all."""

_RANKED_OBSERVATIONS = 128


@dataclass(frozen=True, slots=True)
class Place:
    """Where the output that this process holds lies in the whole of it.

    Attributes:
        first: the number of its first sample.
        samples: of the whole.
        shard: of which axis it holds a part.
        process, processes: which of how many this one is.
    """

    first: int
    samples: int
    shard: Shard | None = None
    process: int = 0
    processes: int = 1

    def extents(self, x: Tensor) -> tuple[int, ...]:
        """The shape of the whole of which ``x`` is a part."""
        shape = [self.samples, *x.shape[1:]]
        if self.shard is not None:
            shape[self.shard.axis] *= self.shard.parts
        return tuple(shape)

    def start(self, x: Tensor, axis: int) -> int:
        """Where ``x`` begins in the whole, along an axis."""
        if axis == 0:
            return self.first
        shard = self.shard
        return shard.part * x.shape[axis] if shard is not None and shard.axis == axis else 0


def forward_sums(x: Tensor, place: Place | None) -> Sums:
    """What is summed of one output ``x`` (samples, ...), real and not empty, at one step.

    ``place`` is None for a process that holds the whole.
    """
    seen = statistics.moments(x)
    highest = statistics.peak(x, finite=statistics.surely_finite(seen.squares))
    where = place or Place(0, x.shape[0])
    sums = {
        "count": torch.full_like(seen.squares, x.numel()),
        "squares": seen.squares,
        "deviations": seen.deviations,
        "zeros": seen.zeros,
        "nonfinite": seen.nonfinite,
        PEAKS: highest.new_zeros(where.processes),
        "rows": _rows(x, place),
    }
    sums[PEAKS][where.process] = highest
    if place is None:
        return sums
    # Across processes: each one's deviations are from its own mean, which lies off the whole's.
    samples = x.shape[0]
    mean = torch.zeros(x.shape[1:], dtype=wide(x), device=x.device)
    for target, piece in zip(
        statistics.pieces(mean[None].expand(x.shape)), statistics.pieces(x.detach()), strict=True
    ):
        target[0].copy_(piece.to(wide(x)).sum(dim=0))
    sums["between"] = torch.dot(mean.reshape(-1), mean.reshape(-1)) / samples
    extents = where.extents(x)[1:]
    whole = torch.zeros(extents, dtype=wide(x), device=x.device)
    part = whole
    if where.shard is not None and where.shard.axis:
        axis = where.shard.axis
        part = whole.narrow(axis - 1, where.start(x, axis), x.shape[axis])
    part.copy_(mean)
    sums["totals"] = whole.reshape(-1)
    sums["samples"] = torch.full_like(
        seen.squares, samples / (1 if where.shard is None else where.shard.parts)
    )
    return sums


def _rows(x: Tensor, place: Place | None) -> Tensor:
    """The first samples of the whole, each at evenly spaced elements; zeros if not held here."""
    if place is None:
        first = x.detach()[:CORRELATED_SAMPLES]
        if first[0].numel() <= CORRELATED_ELEMENTS:
            return first.flatten(1).to(wide(x))
        place = Place(0, x.shape[0])
    extents = place.extents(x)[1:]
    count = min(math.prod(extents), CORRELATED_ELEMENTS)
    here, index = _local(x, place, count, extents, range(1, x.ndim))
    samples = min(place.samples, CORRELATED_SAMPLES)
    start, end = min(place.first, samples), min(place.first + x.shape[0], samples)
    found = x.detach()[: end - start][(slice(None), *index)].to(wide(x))  # type: ignore[index]
    whole = found.new_zeros(samples, count)
    whole[start:end, here] = found
    return whole


def feature_sums(x: Tensor, axis: int, place: Place | None) -> Sums:
    """At most 128 evenly spaced observations by units, for the effective rank."""
    place = place or Place(0, x.shape[0])
    extents = place.extents(x)
    positions = extents[:axis] + extents[axis + 1 :]
    count = min(math.prod(positions), _RANKED_OBSERVATIONS)
    others = [dim for dim in range(x.ndim) if dim != axis]
    here, index = _local(x, place, count, positions, others)
    found = x.detach().movedim(axis, -1)[index].to(wide(x))
    whole = found.new_zeros(count, extents[axis])
    start = place.start(x, axis)
    whole[here, start : start + x.shape[axis]] = found
    return {"features": whole}


@functools.lru_cache(maxsize=1024)
def _evenly_through(count: int, extents: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The coordinates of ``count`` evenly spaced places; on CPU, not to be written to."""
    return torch.unravel_index(evenly(count, math.prod(extents)), extents)


def _local(
    x: Tensor, place: Place, count: int, extents: tuple[int, ...], axes: Iterable[int]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Which of ``count`` places of the whole are held here, and their index in ``x``.

    They are evenly spaced through ``extents``, which are those of ``axes`` in the whole.
    """
    here = torch.ones(count, dtype=torch.bool, device="cpu")
    index = []
    for axis, coordinate in zip(axes, _evenly_through(count, extents), strict=True):
        own = coordinate - place.start(x, axis)
        here &= (own >= 0) & (own < x.shape[axis])
        index.append(own)
    return here.to(x.device), tuple(own[here].to(x.device) for own in index)


def unit_sums(
    y: Tensor, axis: int, place: Place | None, *, dead_zone: bool, magnitude: bool
) -> Sums:
    """What is summed for each unit of an output ``y``, over all its observations."""
    y = y.detach()
    shard = place.shard if place is not None else None
    here = shard.parts if shard is not None and shard.axis == axis else 1
    sums = {
        "observations": torch.tensor(
            y.numel() / y.shape[axis] / here, dtype=wide(y), device=y.device
        )
    }
    if dead_zone:
        others = [dim for dim in range(y.ndim) if dim != axis]
        highest, lowest = y.amax(dim=others), y.amin(dim=others)
        if highest.device.type != "cpu" or bool(highest.isnan().any()):
            # NaN is not positive, and says nothing of the unit's other elements.
            known = y.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
            highest, lowest = known.amax(dim=others), known.amin(dim=others)
        sums["positive"] = in_units((highest > 0).to(wide(y)), axis, place)
        sums["nonpositive"] = in_units((lowest <= 0).to(wide(y)), axis, place)
    if magnitude:
        sums["magnitude"] = in_units(statistics.by_unit(y, axis, torch.abs), axis, place)
    return sums


def saturated_sums(z: Tensor, mask: Mask, order: list[int], axis: int, place: Place | None) -> Sums:
    """How many elements of each unit are saturated, by ``mask`` of parts of ``z``.

    ``order`` are the axes with the one of samples first, and ``axis`` counts units in that order:
    the mask takes ``z`` as it is.
    """
    count: Tensor | int = 0
    z = z.detach() if z.ndim else z.detach().reshape(1)
    samples = order[0]
    for part in z.split(max(1, (1 << 17) * z.shape[samples] // z.numel()), samples):
        saturated = mask(part)
        saturated = saturated.permute(order) if z.ndim > 1 else saturated.reshape(-1, 1)
        others = [dim for dim in range(saturated.ndim) if dim != axis]
        count = count + saturated.sum(dim=others)
    assert isinstance(count, Tensor)
    return {"saturated": in_units(count.to(wide(z)), axis, place)}


def in_units(values: Tensor, axis: int, place: Place | None) -> Tensor:
    """A number for each unit here, laid where these units lie among all."""
    if place is None or place.shard is None or place.shard.axis != axis:
        return values
    whole = values.new_zeros(len(values) * place.shard.parts)
    whole[place.shard.part * len(values) :][: len(values)] = values
    return whole


def gradient_sums(gradient: Tensor, factor: float) -> Sums:
    """What is summed of one gradient, multiplied by ``factor``."""
    total = statistics.squares(gradient)
    wrong = torch.zeros_like(total)
    if not statistics.surely_finite(total):
        wrong = statistics.nonfinite(gradient)
    sums = {
        "count": torch.full_like(total, gradient.numel()),
        "squares": total * factor**2,
        "nonfinite": wrong,
    }
    if torch.finfo(gradient.dtype).tiny > torch.finfo(torch.float32).tiny:
        sums["nonzero"], sums["subnormal"] = statistics.subnormal(gradient)
    return sums


def numbers(sums: Sums) -> dict[str, Tensor]:
    """The scalars that the sums of the whole output make, by the names they have in a profile."""
    deviations = sums["deviations"]
    if "totals" in sums:
        totals = sums["totals"]
        between = sums["between"] - torch.dot(totals, totals) / sums["samples"]
        deviations = deviations + between.clamp(min=0)
    variation = statistics.spread(deviations, sums["squares"])
    rows = sums.get("rows", sums["squares"].new_zeros(0, 0))
    samples = float(sums["samples"]) if "samples" in sums else rows.shape[0]
    if samples < 2:
        variation = torch.full_like(variation, math.nan)
    return {
        "forward_rms": (sums["squares"] / sums["count"]).sqrt(),
        "variation": variation,
        "correlation": statistics.mean_correlation(rows),
        "forward_nonfinite": sums["nonfinite"],
        "forward_peak": sums[PEAKS].amax(),
    }


def gradient_numbers(sums: Sums) -> dict[str, Tensor]:
    """As :func:`numbers`, of a gradient."""
    found = {
        "backward_rms": (sums["squares"] / sums["count"]).sqrt(),
        "backward_nonfinite": sums["nonfinite"],
    }
    if "subnormal" in sums:
        found["backward_subnormal"] = sums["subnormal"] / sums["nonzero"]
    return found


def feature_numbers(sums: Sums) -> dict[str, Tensor]:
    """As :func:`numbers`, of observations by units; nothing for fewer than two observations."""
    features = sums.get("features")
    if features is None or len(features) < 2:
        return {}
    return {"effective_rank": statistics.effective_rank(features)}
