"""AutoTrainer: gradient vanish, gradient explode, dying ReLU, oscillating loss, slow convergence.

Zhang, Zhai, Ma, Shen: "AUTOTRAINER: An Automatic DNN Training Problem Detection and Repair System",
ICSE 2021. Numbers are ``default_param`` of AutoTrainer/utils/utils.py and definitions those of
AutoTrainer/utils/monitor.py, in github.com/shiningrain/AUTOTRAINER at commit 04f4033.

Its history has one entry for each epoch: here a pass through the subject's batches, of which the
last may be cut short by the end of the run. "Kernels" are all parameters but biases, the scale of
a normalisation included. The tool stops at the first problem, so at most one is reported.

Where we differ, each time in its favour:
- Keras metrics make it call every regression inaccurate. Where no accuracy is known, gradients are
  judged all the same, and what is defined on accuracy is not reported.
- It reports slow convergence from a history of a single epoch; here there must be two to compare.
- There is no validation data in a subject; training's own loss and accuracy stand for it.
- It takes gradients of the first batch in inference mode; here they are those of the epoch's last
  step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from tests.zoo.published.trace import Parameter, Trace

__all__ = ["faults"]

BETA_1 = 1e-3
"""Ratio of the first to the last kernel's gradient norm below which gradients vanish (beta_1)."""

BETA_2 = 1e-4
"""The first kernel's gradient norm has to be below this as well (beta_2)."""

BETA_3 = 70.0
"""The same ratio above which gradients explode (beta_3)."""

GAMMA = 0.7
"""Share of zeros among the elements of all gradients from which ReLUs die (gamma)."""

ZETA = 0.03
"""Fall of accuracy from a peak to a trough that counts as an oscillation (zeta)."""

ETA = 0.2
"""Oscillations for each epoch from which the loss oscillates (eta)."""

DELTA = 0.01
"""Largest gain of accuracy between two epochs below which convergence is slow (delta)."""

THETA = 0.7
"""Accuracy from which a model counts as trained, so that its gradients are left alone (Theta)."""

JUDGED_FROM = 0.3
"""Share of the epochs after which accuracy is judged (``loss_issue``, judgment_point)."""

CHECK_EVERY = 3
"""Epochs between two checks (``model_train``, checktype="epoch_3"); the first is after epoch 0."""

HUGE_LOSS = 1e5
"""Loss from which training has exploded (``loss_issue``)."""

EXPLODE, VANISH, DYING = "gradient explode", "gradient vanish", "dying ReLU"
OSCILLATING, SLOW = "oscillating loss", "slow convergence"


def faults(trace: Trace) -> list[str]:
    total = len(set(trace.passes))
    losses: list[float] = []
    accuracies: list[float] = []
    seen: set[str] = set()
    inaccurate = slow = oscillating = False
    epochs = itertools.groupby(range(trace.steps), key=lambda step: trace.passes[step])
    for epoch, (_, group) in enumerate(epochs):
        steps = list(group)
        losses.append(float(np.mean([trace.losses[step] for step in steps])))
        known = [each for step in steps if (each := trace.accuracies[step]) is not None]
        if known:
            accuracies.append(float(np.mean(known)))
        if epoch % CHECK_EVERY:
            continue
        not_a_number = not np.isfinite(losses).all() or losses[-1] >= HUGE_LOSS
        if not_a_number or not _finite(trace, steps[-1]):
            return [EXPLODE]
        seen |= _gradients(trace, steps[-1])
        if epoch + 1 >= JUDGED_FROM * total:
            inaccurate |= max(accuracies, default=0.0) < THETA
            slow |= len(accuracies) > 1 and float(max(np.diff(accuracies))) < DELTA
            oscillating |= _oscillates(accuracies)
        if inaccurate or slow:
            for name in (DYING, EXPLODE, VANISH):
                if name in seen:
                    return [name]
            if slow:
                return [SLOW]
        elif oscillating:
            return [OSCILLATING]
    return []


def _finite(trace: Trace, step: int) -> bool:
    return all(
        parameter.weights[step].finite
        and ((gradient := parameter.gradients[step]) is None or gradient.finite)
        for parameter in _weights(trace)
    )


def _weights(trace: Trace) -> list[Parameter]:
    """What Keras trains; gradients of embedding tables are sparse there, and left out."""
    return [each for each in trace.parameters if each.trainable and not each.embedding]


def _gradients(trace: Trace, step: int) -> set[str]:
    found: set[str] = set()
    given = [
        (parameter, gradient)
        for parameter in _weights(trace)
        if (gradient := parameter.gradients[step]) is not None
    ]
    norms = [gradient.norm for parameter, gradient in given if not parameter.is_bias]
    if norms:
        first, last = norms[0], norms[-1]
        # As NumPy divides: infinity, or no number.
        ratio = first / last if last else math.inf if first else math.nan
        if ratio < BETA_1 and first < BETA_2:
            found.add(VANISH)
        if ratio > BETA_3:
            found.add(EXPLODE)
    size = sum(parameter.size for parameter, _ in given)
    if given and sum(g.zeros * parameter.size for parameter, g in given) / size >= GAMMA:
        found.add(DYING)
    return found


def _oscillates(accuracies: Sequence[float]) -> bool:
    peaks, troughs = [], []
    for before, here, after in zip(accuracies, accuracies[1:], accuracies[2:], strict=False):
        if before <= here >= after:
            peaks.append(here)
        if before >= here <= after:
            troughs.append(here)
    swings = sum(peak - trough >= ZETA for peak, trough in zip(peaks, troughs, strict=False))
    return bool(accuracies) and swings >= ETA * len(accuracies)
