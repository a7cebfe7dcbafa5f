"""Amazon SageMaker Debugger: its built-in rules for neural networks.

Numbers are the documented defaults ("List of Debugger built-in rules", Amazon SageMaker AI
Developer Guide, docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html), definitions
the same page's and sagemaker-docs/FirstPartyRules.md's of github.com/awslabs/sagemaker-debugger.
The code of the built-in rules is not published: where the page leaves a choice, it is named below.

- :func:`faults`: the rules whose parameters all have defaults.
- :func:`faults_by_examples`: also AllZero, TensorVariance and UnchangedTensor, which have to be
  told what tensors to look at (TensorVariance also its limits), as the page's examples tell them.

Overfit and Overtraining need a validation loss and ClassImbalance labels, none of which is in a
trace; they say nothing.

Choices:
- Tensors are saved in every step. The examples save every 500th, which in short runs is only the
  first, and rules over two steps could not say anything.
- ReLU, tanh and sigmoid are told by the module. The default patterns (``.*relu_output``) go by
  names, and with PyTorch's find only modules that their author called so.
- A node is an element of one sample's output, so that in a convolution each position counts.
- The ratio of updates to weights is one of mean magnitudes, as VanishingGradient takes them.
- PoorWeightInitialization returns True where any of its three conditions holds, as its parameters
  are described. That it does at step 0 of healthy trainings is known from logs of its users.
- LossNotDecreasing lets the loss rise by up to its ``increase_threshold_percent``.
- ExplodingTensor looks at whatever the other rules have saved.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from tests.zoo.published.measures import Signal
from tests.zoo.published.trace import FIRST_STEPS, Layer, Parameter, Trace

__all__ = ["faults", "faults_by_examples"]

VANISHING = 1e-7
"""Mean magnitude of a gradient (VanishingGradient, threshold)."""

LAYER = 0.5
"""Share of a layer's nodes that are inactive or saturated (DeadRelu and SaturatedActivation,
threshold_layer, 50.0 per cent; their threshold_inactivity is ACTIVE in measures.py)."""

LARGE_RATIO, SMALL_RATIO, EPSILON = 10.0, 1e-8, 1e-9
"""Update over weight (WeightUpdateRatio, large_threshold, small_threshold, epsilon)."""

LOSS_STEPS = 10
"""Steps between two losses that are compared (LossNotDecreasing, num_steps)."""

DECREASE = 0.001
"""By which share the loss has to fall between them (LossNotDecreasing, diff_percent, 0.1)."""

INCREASE = 0.05
"""By which share it may rise (LossNotDecreasing, increase_threshold_percent, 5)."""

VARIANCE_RATIO = 10.0
"""Largest over smallest variance of the inputs of ReLUs (PoorWeightInitialization, threshold)."""

RANGE = 0.001
"""Between a gradient's 5th and 95th percentiles (PoorWeightInitialization, distribution_range)."""

PATIENCE = 5
"""Steps without a better loss (PoorWeightInitialization, patience)."""

ALL_ZERO = 1.0
"""Share of zeros in a tensor (AllZero, threshold, 100 per cent)."""

MOST_VARIANCE, LEAST_VARIANCE = 10.0, 1e-5
"""Of a weight (TensorVariance, max_threshold and min_threshold of its example)."""

UNCHANGED_STEPS, RELATIVE, ABSOLUTE = 3, 1e-5, 1e-8
"""Steps, and how far apart their losses are for numpy.allclose (UnchangedTensor, num_steps, rtol,
atol)."""


def faults(trace: Trace) -> list[str]:
    return [name for name, rule in _DEFAULTS.items() if rule(trace)]


def faults_by_examples(trace: Trace) -> list[str]:
    return [name for name, rule in {**_DEFAULTS, **_EXAMPLES}.items() if rule(trace)]


def _weights(trace: Trace) -> list[Parameter]:
    """The default collection ``weights``: parameters with ``weight`` in their name."""
    return [parameter for parameter in trace.parameters if "weight" in parameter.name]


def _relus(trace: Trace) -> list[Layer]:
    return [layer for layer in trace.layers if layer.kind == "ReLU"]


def _signals(layers: list[Layer]) -> Iterator[Signal]:
    for layer in layers:
        yield from (each for each in (*layer.inputs, *layer.outputs) if each is not None)


def _vanishing_gradient(trace: Trace) -> bool:
    return any(
        gradient is not None and gradient.magnitude < VANISHING
        for parameter in trace.parameters
        for gradient in parameter.gradients
    )


def _exploding_tensor(trace: Trace) -> bool:
    return (
        not np.isfinite(trace.losses).all()
        or any(not each.finite for weight in _weights(trace) for each in weight.weights)
        or any(not each.finite for each in _signals(_relus(trace)))
        or any(
            gradient is not None and not gradient.finite
            for parameter in trace.parameters
            for gradient in parameter.gradients
        )
    )


def _dead_relu(trace: Trace) -> bool:
    return any(
        output is not None and output.inactive is not None and output.inactive > LAYER
        for layer in trace.layers
        for output in layer.outputs
    )


def _saturated_activation(trace: Trace) -> bool:
    return any(
        given is not None and given.saturated is not None and given.saturated > LAYER
        for layer in trace.layers
        for given in layer.inputs
    )


def _weight_update_ratio(trace: Trace) -> bool:
    ratios = [
        each.change / (each.magnitude + EPSILON)
        for weight in _weights(trace)
        for each in weight.weights
    ]
    return any(ratio > LARGE_RATIO or ratio < SMALL_RATIO for ratio in ratios)


def _loss_not_decreasing(trace: Trace) -> bool:
    compared = trace.losses[::LOSS_STEPS]
    for earlier, later in itertools.pairwise(compared):
        fall = (earlier - later) / abs(earlier) if earlier else -math.inf
        if fall < -INCREASE or 0 <= fall < DECREASE:
            return True
    return False


def _poor_weight_initialization(trace: Trace) -> bool:
    first = range(min(FIRST_STEPS, trace.steps))
    return _stuck(trace.losses[:FIRST_STEPS]) or any(
        _uneven(trace, step) or _narrow(trace, step) for step in first
    )


def _stuck(losses: tuple[float, ...]) -> bool:
    best, waited = math.inf, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited >= PATIENCE:
            return True
    return False


def _uneven(trace: Trace, step: int) -> bool:
    given = [layer.inputs[step] for layer in _relus(trace)]
    variances = [each.variance for each in given if each is not None]
    if not variances:
        return False
    largest, smallest = max(variances), min(variances)
    return largest > VARIANCE_RATIO * smallest


def _narrow(trace: Trace, step: int) -> bool:
    spreads = [
        gradient.spread
        for parameter in trace.parameters
        if (gradient := parameter.gradients[step]) is not None and gradient.spread is not None
    ]
    return any(spread < RANGE for spread in spreads)


def _all_zero(trace: Trace) -> bool:
    """All tensors: the example's pattern is ``.*``."""
    parameters = [
        each
        for parameter in trace.parameters
        for each in (*parameter.weights, *parameter.gradients)
        if each is not None
    ]
    signals = _signals(list(trace.layers))
    return any(each.zeros >= ALL_ZERO for each in (*parameters, *signals)) or 0.0 in trace.losses


def _tensor_variance(trace: Trace) -> bool:
    variances = [each.variance for weight in _weights(trace) for each in weight.weights]
    return any(value > MOST_VARIANCE or value < LEAST_VARIANCE for value in variances)


def _unchanged_tensor(trace: Trace) -> bool:
    """The loss, as in the example."""
    losses = trace.losses
    return any(
        np.allclose(losses[start : start + UNCHANGED_STEPS], losses[start], RELATIVE, ABSOLUTE)
        for start in range(trace.steps - UNCHANGED_STEPS + 1)
    )


_DEFAULTS: dict[str, Callable[[Trace], bool]] = {
    "VanishingGradient": _vanishing_gradient,
    "ExplodingTensor": _exploding_tensor,
    "DeadRelu": _dead_relu,
    "SaturatedActivation": _saturated_activation,
    "WeightUpdateRatio": _weight_update_ratio,
    "LossNotDecreasing": _loss_not_decreasing,
    "PoorWeightInitialization": _poor_weight_initialization,
}

_EXAMPLES: dict[str, Callable[[Trace], bool]] = {
    "AllZero": _all_zero,
    "TensorVariance": _tensor_variance,
    "UnchangedTensor": _unchanged_tensor,
}
