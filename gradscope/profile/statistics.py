"""The numbers that are taken of a tensor, and the one place where they leave torch.

Everything accumulates in float64, whatever the type of the tensor: squares of signals that have
vanished or exploded do not fit into float32, and a sum in bfloat16 is off by parts in a thousand.
Tensors are gone through in pieces that fit into a cache, so that no copy of a whole one is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "CORRELATED_ELEMENTS",
    "CORRELATED_SAMPLES",
    "Moments",
    "by_unit",
    "effective_rank",
    "evenly",
    "mean_correlation",
    "moments",
    "nonfinite",
    "norm",
    "peak",
    "pieces",
    "spread",
    "squares",
    "subnormal",
    "surely_finite",
    "to_floats",
    "wide",
]

# Half a megabyte of float64: what is measured of a piece finds it in the cache. Elsewhere than on
# CPU it is the number of launches that costs.
_PIECE, _LARGE_PIECE = 1 << 16, 1 << 23

# Pairs grow with the square of the samples; these many say enough of how alike they are.
CORRELATED_SAMPLES = 64
CORRELATED_ELEMENTS = 1024


def wide(x: Tensor) -> torch.dtype:
    """The type to accumulate in: float64 where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def pieces(x: Tensor) -> Iterator[Tensor]:
    """``x`` in parts along other dimensions than the first, each small enough for a cache."""
    most = _PIECE if x.device.type == "cpu" else _LARGE_PIECE
    if x.numel() <= most or x.ndim < 2:
        yield x
        return
    dim = max(range(1, x.ndim), key=lambda each: x.shape[each])
    extent = x.shape[dim]
    for part in x.chunk(min(extent, math.ceil(x.numel() / most)), dim) if extent > 1 else (x,):
        # One row of a large tensor can still be too much.
        yield from pieces(part) if extent > 1 and part.shape[dim] == 1 else (part,)


def _real(x: Tensor) -> Tensor:
    x = x.detach()
    return torch.view_as_real(x) if x.is_complex() else x


def _scalar(x: Tensor, value: float = 0.0) -> Tensor:
    return torch.full((), value, dtype=wide(x), device=x.device)


def squares(x: Tensor) -> Tensor:
    """Sum of the squared magnitudes of all elements; scalar."""
    x = _real(x)
    total = _scalar(x)
    for piece in pieces(x[None]):
        flat = piece.to(wide(x)).reshape(-1)
        total += torch.dot(flat, flat)
    return total


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over all elements, real or complex; scalar."""
    return squares(x).sqrt()


def nonfinite(x: Tensor) -> Tensor:
    """How many elements are NaN or infinite; scalar."""
    x = _real(x)
    count = _scalar(x)
    for piece in pieces(x[None]):
        count += torch.isfinite(piece.to(wide(x))).logical_not_().sum()
    return count


def subnormal(x: Tensor) -> tuple[Tensor, Tensor]:
    """How many elements are not zero, and how many of these are below the type's normal numbers."""
    x = x.detach()
    nonzero, small = _scalar(x), _scalar(x)
    for piece in pieces(x[None]):
        size = piece.to(wide(x)).abs()
        nonzero += (size > 0).sum()
        small += ((size > 0) & (size < torch.finfo(x.dtype).tiny)).sum()
    return nonzero, small


def surely_finite(total: Tensor) -> bool:
    """Whether a sum shows that all it was made of is finite; asking a GPU would make it wait."""
    return total.device.type == "cpu" and math.isfinite(total)


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the elements of a tensor of samples; scalars.

    Attributes:
        squares: of the elements.
        deviations: squares of the elements less their mean over samples.
        zeros: how many elements are exactly zero.
        nonfinite: how many are NaN or infinite.
    """

    squares: Tensor
    deviations: Tensor
    zeros: Tensor
    nonfinite: Tensor


def moments(x: Tensor) -> Moments:
    """The sums over ``x`` (samples, ...), real and not empty."""
    x = x.detach()
    total, deviations, zeros, wrong = (_scalar(x) for _ in range(4))
    # On CPU signs are added up faster than comparisons (in float32 exactly, for pieces of this
    # size), and a finite total shows that nothing else has to be counted.
    quick = x.device.type == "cpu"
    for piece in pieces(x):
        part = piece.to(wide(x), copy=True)
        flat = part.reshape(-1)
        total += torch.dot(flat, flat)
        if quick:
            signs = (piece if piece.dtype == torch.float32 else part).sign().reshape(-1)
            zeros += signs.numel() - torch.dot(signs, signs)
        else:
            zeros += (part == 0).sum()
            wrong += torch.isfinite(part).logical_not_().sum()
        flat = part.sub_(part.mean(dim=0)).reshape(-1)
        deviations += torch.dot(flat, flat)
    if quick and not surely_finite(total):
        zeros = _scalar(x)
        for piece in pieces(x):
            zeros += (piece.to(wide(x)) == 0).sum()
        wrong = nonfinite(x)
    return Moments(total, deviations, zeros, wrong)


def peak(x: Tensor, *, finite: bool) -> Tensor:
    """The largest finite magnitude; scalar, 0 where there is none.

    ``finite`` tells whether all elements are known to be.
    """
    x = x.detach()
    if finite:
        low, high = torch.aminmax(x)
        return torch.maximum(low.abs(), high.abs()).to(wide(x))
    highest = _scalar(x)
    for piece in pieces(x):
        size = piece.to(wide(x)).abs()
        highest = torch.maximum(highest, size.where(torch.isfinite(size), 0).amax())
    return highest


def spread(deviations: Tensor, total: Tensor) -> Tensor:
    """The root of a ratio of sums of squares; 0 where the deviations are."""
    return torch.where(deviations == 0, deviations, (deviations / total).sqrt())


def evenly(count: int, extent: int) -> Tensor:
    """``count`` evenly spaced numbers below ``extent``: floor(k extent / count)."""
    return torch.arange(count, device="cpu") * extent // count


def mean_correlation(rows: Tensor) -> Tensor:
    """Mean Pearson correlation between two different ones of ``rows`` (samples, elements)."""
    samples = rows.shape[0]
    if samples < 2:
        return _scalar(rows, math.nan)
    # No epsilon: it would report tiny signals as uncorrelated. A mean can be rounded, though, and
    # leave something of a row without variation.
    varies = rows.amax(dim=1, keepdim=True) > rows.amin(dim=1, keepdim=True)
    varies |= rows.isnan().any(dim=1, keepdim=True)
    rows = rows - rows.mean(dim=1, keepdim=True)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    rows = torch.where(varies, rows / lengths, 0.0)
    pairs = samples * (samples - 1)
    return (rows.sum(dim=0).square().sum() - rows.square().sum()) / pairs


def effective_rank(features: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values' shares (Roy, Vetterli 2007).

    Args:
        features: (observations, units), float64.

    Returns:
        Scalar from 1 to the smaller extent; NaN where an element is not finite or all are zero.
    """
    # Small enough for any CPU, and not all devices can do it.
    features = features.cpu().double()
    if not bool(torch.isfinite(features).all()):
        return _scalar(features, math.nan)
    values = torch.linalg.svdvals(features)
    rank: Tensor = torch.special.entr(values / values.sum()).sum().exp()
    return rank


def by_unit(x: Tensor, axis: int, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum of ``measure(part)`` over each unit; (units,), float64.

    ``measure`` maps a tensor to one of the same shape; it sees ``x`` in pieces.
    """
    count = torch.zeros(x.shape[axis], dtype=wide(x), device=x.device)
    for piece in pieces(x.detach().movedim(axis, 0)):
        count += measure(piece).flatten(1).sum(dim=1, dtype=wide(x))
    return count


def to_floats(scalars: list[Tensor]) -> list[float]:
    """Moves scalar tensors to Python floats in a single transfer for each device."""
    if not scalars:
        return []
    if len({scalar.device for scalar in scalars}) > 1:
        return [float(scalar) for scalar in scalars]
    return torch.stack([scalar.to(wide(scalar)) for scalar in scalars]).tolist()
