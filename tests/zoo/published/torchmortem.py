"""torchmortem 0.1: what its detectors report at WARNING or above.

Thresholds are the defaults of the detectors' constructors, definitions those of the detectors and
collectors, in github.com/sebseager/torchmortem at commit bdb9dc2, the state of 0.1 on PyPI.
It is used as its README has it: ``step(loss=loss.item())`` after each ``optimizer.step()``.

Findings at INFO (catapult phase, edge of stability) say that nothing is wrong, and are left out.
Dead and saturated are said of single elements, saturated of any magnitude above 0.95 and any
module with parameters: of logits as well. NaN passes comparisons as it does there.

The tool itself raises on a network with an in-place activation behind a layer with parameters: it
puts a full backward hook on the layer, which torch then does not let be written over. Here such a
network is judged like any other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.zoo.published.trace import Trace

__all__ = ["faults"]

Series = NDArray[np.float64]

VANISHING_RATIO = 100.0
"""Last over first layer's mean gradient norm (GradientFlowDetector, vanishing_ratio_threshold)."""

EXPLODING_NORM = 1000.0
"""Norm of any layer's gradient (GradientFlowDetector, exploding_norm_threshold)."""

STALL = 1e-8
"""Gradient norm of a layer that gets none (GradientFlowDetector, stall_threshold)."""

STALL_SHARE = 0.3
"""Share of steps in which it does (GradientFlowDetector, stall_fraction)."""

DEAD = 0.5
"""Share of a module's elements near zero (DeadUnitDetector, dead_frac_threshold)."""

SATURATED = 0.5
"""Share of a module's elements near ±1 or above (SaturationDetector, saturated_frac_threshold)."""

SUSTAINED = 0.5
"""Share of the run's second half that both need (sustained_fraction)."""

LOW_RATIO, HIGH_RATIO = 1e-5, 1e-1
"""Median ratio of update to weight (UpdateRatioDetector, low_threshold and high_threshold)."""

PLATEAU_WINDOW, PLATEAU_RANGE = 20, 1e-5
"""Steps, and the loss's relative range in them (LossDynamicsDetector, plateau_window and
plateau_threshold)."""

DIVERGENCE_WINDOW, DIVERGENCE_LEAST = 20, 5
"""Steps, or half of the run where that is shorter but not below the second number
(LossDynamicsDetector, divergence_window)."""

INCREASING, INCREASE = 0.8, 1.5
"""Share of rising steps, and last over first loss in the window (LossDynamicsDetector)."""

LOSS_STEPS = 10
"""Steps without which nothing is said of the loss (LossDynamicsDetector)."""

SMOOTHING = 0.1
"""Of the moving average of the loss (LossCollector, smoothing_alpha)."""

LOW_SNR, SNR_STEPS = 1.0, 20
"""Mean over deviation of gradient norms, and the steps it takes (GradientNoiseDetector,
low_snr_threshold and min_steps)."""

COLLAPSE, RANK_MEASUREMENTS = 0.5, 3
"""Late over early effective rank (RankCollapseDetector, collapse_ratio and min_measurements)."""

NO_RANK = 1e-6
"""Early rank of which no ratio is taken (RankCollapseDetector)."""

WEIGHT_EXPLOSION = 10.0
"""Last over first weight norm (WeightNormDetector, explosion_factor)."""

STAGNATION, STAGNATION_STEPS = 1e-4, 4
"""Relative change of a weight norm over the run (WeightNormDetector, stagnation_threshold)."""

IMBALANCE = 100.0
"""Largest over smallest weight norm (WeightNormDetector, imbalance_factor)."""

NOTHING = 1e-30
"""Below this a norm counts as zero (all detectors)."""

ACTIVATIONS = frozenset(
    {
        *("ReLU", "LeakyReLU", "PReLU", "ELU", "SELU", "GELU", "SiLU", "Mish", "Hardswish"),
        *("Sigmoid", "Tanh", "Hardsigmoid", "Softmax", "LogSoftmax"),
    }
)
"""Modules whose outputs are looked at, beside those with parameters (ActivationCollector)."""


def faults(trace: Trace) -> list[str]:
    with np.errstate(all="ignore"):
        return [name for name, check in _CHECKS.items() if check(trace)]


def _norms(trace: Trace) -> Series:
    """Gradient norms, (steps, layers with trained parameters)."""
    return _columns([layer.gradients for layer in trace.layers if layer.trainable], trace.steps)


def _weights(trace: Trace) -> tuple[Series, Series]:
    """Norms of weights, and of updates relative to them, both (steps, layers with a weight)."""
    weights = [trace.parameter(layer.weight).weights for layer in trace.layers if layer.weight]
    norms = _columns([[each.norm for each in series] for series in weights], trace.steps)
    changes = _columns([[each.change_norm for each in series] for series in weights], trace.steps)
    return norms, np.where(norms > NOTHING, changes / norms, 0.0)


def _columns(series: list[tuple[float, ...]] | list[list[float]], steps: int) -> Series:
    return np.array(series, dtype=np.float64).reshape(len(series), steps).T


def _flow(trace: Trace) -> Series | None:
    norms = _norms(trace)
    return norms if norms.shape[0] and norms.shape[1] >= 2 else None


def _vanishing(trace: Trace) -> bool:
    norms = _flow(trace)
    if norms is None:
        return False
    means = norms[len(norms) // 2 :].mean(axis=0)
    if means[0] < NOTHING:
        return True
    # Not >=: NaN is reported.
    return not means[-1] < NOTHING and not means[-1] / means[0] < VANISHING_RATIO


def _exploding(trace: Trace) -> bool:
    norms = _flow(trace)
    return norms is not None and bool((norms > EXPLODING_NORM).any())


def _stalling(trace: Trace) -> bool:
    norms = _flow(trace)
    return norms is not None and bool(((norms < STALL).mean(axis=0) >= STALL_SHARE).any())


def _sustained(trace: Trace, measure: str, limit: float) -> bool:
    """Whether a share of some module's elements is above the limit in half of the later steps."""
    for layer in trace.layers:
        if not layer.parametric and layer.kind not in ACTIVATIONS:
            continue
        late = layer.outputs[trace.steps // 2 :]
        above = [output is not None and getattr(output, measure) > limit for output in late]
        if above and sum(above) / len(above) >= SUSTAINED:
            return True
    return False


def _dead(trace: Trace) -> bool:
    return _sustained(trace, "near_zeros", DEAD)


def _saturated(trace: Trace) -> bool:
    return _sustained(trace, "near_ones", SATURATED)


def _update_ratios(trace: Trace) -> list[float]:
    """The median of each layer in the second half of the run, its first step and zeros left out."""
    if trace.steps < 2:
        return []
    ratios = _weights(trace)[1][1:]
    late = ratios[len(ratios) // 2 :]
    return [float(np.median(column[column > 0])) for column in late.T if (column > 0).any()]


def _smoothed(trace: Trace) -> Series:
    smoothed = [trace.losses[0]]
    for loss in trace.losses[1:]:
        smoothed.append(SMOOTHING * loss + (1 - SMOOTHING) * smoothed[-1])
    return np.array(smoothed)


def _diverging(trace: Trace) -> bool:
    window = min(DIVERGENCE_WINDOW, trace.steps // 2)
    if trace.steps < LOSS_STEPS or window < DIVERGENCE_LEAST:
        return False
    tail = _smoothed(trace)[-window:]
    if (np.diff(tail) > 0).mean() < INCREASING:
        return False
    return not (tail[0] > NOTHING and tail[-1] / tail[0] < INCREASE)


def _plateau(trace: Trace) -> bool:
    if trace.steps < max(LOSS_STEPS, 2 * PLATEAU_WINDOW):
        return False
    losses = _smoothed(trace)
    for start in range(trace.steps // 2, trace.steps - PLATEAU_WINDOW, PLATEAU_WINDOW):
        part = losses[start : start + PLATEAU_WINDOW]
        mean = part.mean()
        if mean >= NOTHING and (part.max() - part.min()) / mean < PLATEAU_RANGE:
            return True
    return False


def _noisy(trace: Trace) -> bool:
    norms = _norms(trace)
    if trace.steps < SNR_STEPS or not norms.shape[1]:
        return False
    late = norms[trace.steps // 2 :].T
    ratios = [
        column.mean() / column.std()
        for column in late
        if not (column.mean() < NOTHING or column.std() < NOTHING)
    ]
    return bool(ratios) and bool(np.mean(ratios) < LOW_SNR)


def _collapsing(trace: Trace) -> bool:
    for layer in trace.layers:
        ranks = [rank for rank in layer.ranks if rank > 0] if layer.trainable else []
        if len(ranks) < RANK_MEASUREMENTS:
            continue
        # The floor is taken after the sign, as there: four ranks leave one early, two late.
        early, late = np.mean(ranks[: len(ranks) // 3]), np.mean(ranks[-len(ranks) // 3 :])
        if early >= NO_RANK and not late / early > COLLAPSE:
            return True
    return False


def _growing(trace: Trace) -> bool:
    if trace.steps < 2:
        return False
    norms = _weights(trace)[0]
    return bool((norms[-1] / norms[0] > WEIGHT_EXPLOSION)[norms[0] >= NOTHING].any())


def _stagnant(trace: Trace) -> bool:
    if trace.steps < STAGNATION_STEPS:
        return False
    norms = _weights(trace)[0]
    changes = abs(norms[-1] - norms[0]) / norms[0]
    return bool((changes < STAGNATION)[norms[0] >= NOTHING].any())


def _imbalanced(trace: Trace) -> bool:
    if trace.steps < 2:
        return False
    last = _weights(trace)[0][-1]
    last = last[last > NOTHING]
    return len(last) > 1 and not last.max() / last.min() < IMBALANCE


_CHECKS: dict[str, Callable[[Trace], bool]] = {
    "vanishing gradients": _vanishing,
    "exploding gradients": _exploding,
    "gradient stalling": _stalling,
    "dead units": _dead,
    "activation saturation": _saturated,
    "update ratio too low": lambda trace: any(ratio < LOW_RATIO for ratio in _update_ratios(trace)),
    "update ratio too high": lambda trace: any(
        ratio > HIGH_RATIO for ratio in _update_ratios(trace)
    ),
    "training divergence": _diverging,
    "loss plateau": _plateau,
    "gradient noise": _noisy,
    "rank collapse": _collapsing,
    "weight norm explosion": _growing,
    "stagnant weight norms": _stagnant,
    "weight norm imbalance": _imbalanced,
}
