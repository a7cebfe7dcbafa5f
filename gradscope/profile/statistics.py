"""The numbers that are taken of a tensor, and the one place where they leave torch.

Everything accumulates in float64, whatever the type of the tensor: squares of signals that have
vanished or exploded do not fit into float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["correlation", "nonfinite", "norm", "rms", "to_floats", "units_first", "variation"]

# Pairs grow with the square of the samples; these many say enough of how alike they are.
_CORRELATED_SAMPLES = 64


def _width(x: Tensor) -> torch.dtype:
    """The type to accumulate in: float64 where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(_width(x))


def rms(x: Tensor) -> Tensor:
    """Root mean square over all elements; scalar, NaN where there are none."""
    return norm(x) / math.sqrt(x.numel()) if x.numel() else x.new_tensor(math.nan)


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over all elements; scalar."""
    euclidean: Tensor = torch.linalg.vector_norm(x.detach(), dtype=_width(x))
    return euclidean


def nonfinite(x: Tensor) -> Tensor:
    """How many elements are NaN or infinite; scalar."""
    return torch.isfinite(x.detach()).logical_not().sum()


def variation(x: Tensor) -> Tensor:
    """How much samples differ: standard deviation across samples over RMS (dimensionless).

    Args:
        x: (samples, ...); the deviation is taken for each element over samples, then squared and
            averaged.

    Returns:
        Scalar in [0, 1]; 0 where all samples are alike (an all-zero tensor's are), NaN for fewer
        than two samples.
    """
    wide = _wide(x)
    if wide.shape[0] < 2:
        return wide.new_tensor(float("nan"))
    deviation = norm(wide - wide.mean(dim=0))
    return torch.where(deviation == 0, deviation, deviation / norm(wide))


def correlation(x: Tensor) -> Tensor:
    """Mean Pearson correlation between two different samples' values.

    Args:
        x: (samples, ...); the first 64 samples are used. Samples without variation of their own
            count as 0.

    Returns:
        Scalar in [-1, 1]; 1 where all samples are alike up to scale, NaN for fewer than two.
    """
    rows = _wide(x[:_CORRELATED_SAMPLES]).flatten(1)
    samples = rows.shape[0]
    if samples < 2:
        return rows.new_tensor(float("nan"))
    rows = rows - rows.mean(dim=1, keepdim=True)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # No epsilon: it would report tiny signals as uncorrelated.
    rows = torch.where(lengths > 0, rows / lengths, rows)
    pairs = samples * (samples - 1)
    return (rows.sum(dim=0).square().sum() - rows.square().sum()) / pairs


def units_first(x: Tensor, axis: int) -> Tensor:
    """``x`` as (units, observations): one row for each unit, whatever the layout."""
    return x.detach().movedim(axis, 0).flatten(1)


def to_floats(scalars: list[Tensor]) -> list[float]:
    """Moves scalar tensors to Python floats in a single transfer for each device."""
    if not scalars:
        return []
    if len({scalar.device for scalar in scalars}) > 1:
        return [float(scalar) for scalar in scalars]
    return torch.stack([scalar.to(_width(scalar)) for scalar in scalars]).tolist()
