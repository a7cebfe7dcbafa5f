"""Fewer points of a long series: bins of equally many steps."""

from __future__ import annotations

import numpy as np

__all__ = ["binned"]


def binned(
    steps: np.ndarray, values: np.ndarray, weights: np.ndarray, bins: int | None, *, maximum: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values by bins of equally many steps; each stands at the last of its steps.

    Args:
        steps: ascending, int64 of shape ``(n,)``.
        values: float32 of shape ``(n, columns)``.
        weights: how much each row of values counts in a mean, ``(n,)``.
        bins: at most how many; bins without a step are left out. None for all steps.
        maximum: the maximum, not the mean. Both are over what is not NaN, the mean over what is
            finite, where something is.

    Returns:
        Steps and values of at most ``bins`` rows.
    """
    if bins is None or len(steps) <= bins:
        return steps, values
    span = int(steps[-1] - steps[0]) + 1
    which = (steps - steps[0]) * bins // span
    starts = np.flatnonzero(np.diff(which, prepend=-1))
    last = np.append(starts[1:], len(steps)) - 1
    highest = np.fmax.reduceat(values, starts, axis=0)
    if maximum:
        return steps[last], highest
    counted = np.isfinite(values) * weights[:, None].astype(np.float64)
    total = np.add.reduceat(np.where(counted > 0, values, 0.0) * counted, starts, axis=0)
    count = np.add.reduceat(counted, starts, axis=0)
    some = count > 0
    mean = np.divide(total, count, out=total, where=some).astype(np.float32)
    np.copyto(mean, highest, where=~some)
    return steps[last], mean
