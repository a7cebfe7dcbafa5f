"""Whether one derivative does better than another, over many runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

__all__ = ["format_p", "p_value"]


def p_value(better: Sequence[float], worse: Sequence[float]) -> float:
    """How likely a mean so much lower is by chance: a paired, one-sided permutation test.

    The i-th of both is of the same seed. The signs of their differences are flipped at random; the
    p-value is the share of flips whose mean is as low. NaN of fewer than two runs, and where one
    diverged, as the mean is none.
    """
    if len(better) < 2 or not all(map(math.isfinite, (*better, *worse))):
        return math.nan
    difference = np.subtract(better, worse)
    test = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        alternative="less",
        n_resamples=99_999,
        batch=10_000,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def format_p(p: float) -> str:
    """Short; a dash where there is none."""
    return "–" if math.isnan(p) else f"{p:.2g}" if p >= 1e-4 else "< 1e-4"
