"""Paired statistics: whether one arm beats another on matched seeds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Comparison", "compare"]

SIGNIFICANCE = 0.05
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """Of paired values before and after.

    Attributes:
        before, after: means.
        interval: 95 % confidence interval of the mean of after - before.
        p_value: of the paired t-test (two-sided).
        effect_size: mean difference over its standard deviation (Cohen's d_z).
    """

    before: float
    after: float
    interval: tuple[float, float]
    p_value: float
    effect_size: float

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def significant(self) -> bool:
        return self.p_value < SIGNIFICANCE


def compare(before: Sequence[float], after: Sequence[float]) -> Comparison:
    """Compares two arms by a paired t-test.

    Args:
        before, after: finite values, the i-th of both from the same seed; two pairs at least.

    Differences that are all equal leave nothing to estimate: p is then 1 for equal arms and 0
    for arms that differ.
    """
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    mean, deviation = float(difference.mean()), float(difference.std(ddof=1))
    if deviation == 0:
        return Comparison(
            before=float(np.mean(before)),
            after=float(np.mean(after)),
            interval=(mean, mean),
            p_value=0.0 if mean else 1.0,
            effect_size=math.copysign(math.inf, mean) if mean else 0.0,
        )
    with warnings.catch_warnings():
        # Nearly equal differences lose precision, which the result shows by itself.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = stats.ttest_rel(after, before)
        low, high = result.confidence_interval(_CONFIDENCE)
    return Comparison(
        before=float(np.mean(before)),
        after=float(np.mean(after)),
        interval=(float(low), float(high)),
        p_value=float(result.pvalue),
        effect_size=mean / deviation,
    )
