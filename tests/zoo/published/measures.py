"""The numbers that the published tools take of a tensor, each the way its tool takes it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Gradient",
    "Signal",
    "Weight",
    "effective_rank",
    "gradient_of",
    "signal_of",
    "weight_of",
]

NEAR_ZERO = 1e-6
"""Magnitude below which an element of an output is dead: torchmortem, ``dead_threshold`` of
``ActivationCollector``."""

NEAR_ONE = 0.95
"""Magnitude above which an element of an output is saturated: torchmortem,
1 − ``saturation_threshold`` of ``ActivationCollector`` (0.05)."""

ACTIVE = 0.01
"""Share of samples in which a node has to be active: SageMaker's built-in rules DeadRelu and
SaturatedActivation, ``threshold_inactivity`` (1.0 per cent)."""

SLOPED = {"Tanh": (-9.4999, 9.4999), "Sigmoid": (-23.0, 16.99999)}
"""Inputs between which an activation is not saturated: SageMaker's SaturatedActivation,
``threshold_tanh_min``, ``_max``, ``threshold_sigmoid_min``, ``_max``."""

PERCENTILES = (5, 95)
"""Between them lies what SageMaker's PoorWeightInitialization calls the range of a gradient."""

CHECKED_FOR_DEAD = ("ReLU", "LeakyReLU", "ELU", "GELU")
"""Modules in which torchdiag's ``check_dead_neurons`` looks for dead neurons."""

IDLE = 0.0
"""Magnitude up to which a neuron's output is none: torchdiag, ``threshold`` of
``check_dead_neurons``."""

NO_SIGNAL = 1e-30
"""Sum of singular values up to which there is no rank: torchmortem, ``RankCollector``."""


@dataclass(frozen=True)
class Signal:
    """A tensor that went into a module or came out of it.

    Attributes:
        finite: it holds no NaN and no infinity.
        variance: of all elements.
        zeros: share of elements that are exactly 0.
        near_zeros: share of elements below NEAR_ZERO.
        near_ones: share of elements above NEAR_ONE.
        inactive: share of nodes (elements of one sample) that are above 0 in less than ACTIVE of
            the samples; None but for ReLU.
        saturated: share of nodes that are inside SLOPED in less than ACTIVE of the samples; None
            but for Tanh and Sigmoid.
        idle: share of neurons (dimension 1) whose mean over all further dimensions is 0 in every
            sample; None but for CHECKED_FOR_DEAD, and without a dimension 1.
    """

    finite: bool
    variance: float
    zeros: float
    near_zeros: float
    near_ones: float
    inactive: float | None = None
    saturated: float | None = None
    idle: float | None = None


@dataclass(frozen=True)
class Gradient:
    """A parameter's gradient, as the optimizer gets it.

    Attributes:
        finite: it holds no NaN and no infinity.
        norm: L2.
        magnitude: mean of absolute values.
        largest: of absolute values.
        zeros: share of elements that are exactly 0.
        spread: between PERCENTILES; None where nobody asks for it.
    """

    finite: bool
    norm: float
    magnitude: float
    largest: float
    zeros: float
    spread: float | None = None


@dataclass(frozen=True)
class Weight:
    """A parameter in a step.

    Attributes:
        finite: it holds no NaN and no infinity, before the update.
        zeros: share of elements that are exactly 0, before the update.
        variance: before the update.
        magnitude: mean of absolute values, before the update.
        norm: L2, after the update.
        change: mean of the update's absolute values.
        change_norm: L2 norm of the update.
    """

    finite: bool
    zeros: float
    variance: float
    magnitude: float
    norm: float
    change: float
    change_norm: float


def signal_of(tensor: Tensor, kind: str) -> Signal | None:
    """A tensor at a module of that kind; None for one that is empty or of whole numbers."""
    if not tensor.is_floating_point() or not tensor.numel():
        return None
    values = tensor.detach().float()
    nodes = values.reshape(len(values) if values.ndim else 1, -1)
    inactive = saturated = idle = None
    if kind == "ReLU":
        inactive = _seldom(nodes > 0)
    if kind in SLOPED:
        low, high = SLOPED[kind]
        saturated = _seldom((nodes > low) & (nodes < high))
    if kind in CHECKED_FOR_DEAD and values.ndim > 1:
        neurons = values if values.ndim == 2 else values.flatten(2).mean(dim=2)
        idle = _share((neurons.abs() <= IDLE).all(dim=0))
    return Signal(
        finite=bool(values.isfinite().all()),
        variance=float(values.var(correction=0)),
        zeros=_share(values == 0),
        near_zeros=_share(values.abs() < NEAR_ZERO),
        near_ones=_share(values.abs() > NEAR_ONE),
        inactive=inactive,
        saturated=saturated,
        idle=idle,
    )


def gradient_of(tensor: Tensor, *, spread: bool) -> Gradient:
    values = _numbers(tensor)
    magnitudes = values.abs()
    return Gradient(
        finite=bool(values.isfinite().all()),
        norm=float(torch.linalg.vector_norm(values)),
        magnitude=float(magnitudes.mean()),
        largest=float(magnitudes.max()),
        zeros=_share(values == 0),
        spread=_spread(values) if spread else None,
    )


def weight_of(before: Tensor, after: Tensor) -> Weight:
    old, new = _numbers(before), _numbers(after)
    return Weight(
        finite=bool(old.isfinite().all()),
        zeros=_share(old == 0),
        variance=float(old.var(correction=0)),
        magnitude=float(old.abs().mean()),
        # In the parameter's own precision, as torchmortem takes them: float16 rounds them.
        norm=float(torch.linalg.vector_norm(after.detach())),
        change=float((new - old).abs().mean()),
        change_norm=float(torch.linalg.vector_norm(after.detach() - before)),
    )


def effective_rank(output: Tensor) -> float:
    """exp of the entropy of the normalised singular values of an output, (samples, all the rest).

    0.0 where torchmortem has none: for a single row or column, and where the decomposition fails.
    """
    values = output.detach().float()
    if values.ndim < 2:
        return 0.0
    values = values.flatten(1)
    if min(values.shape) < 2 or not values.isfinite().all():
        return 0.0
    try:
        singular = torch.linalg.svdvals(values)
    except RuntimeError:  # torch's LinAlgError is one
        return 0.0
    total = singular.sum()
    # Not <=: the sum may be NaN.
    if not total > NO_SIGNAL:
        return 0.0
    shares = singular / total
    shares = shares[shares > NO_SIGNAL]
    return math.exp(-float((shares * shares.log()).sum()))


def _numbers(tensor: Tensor) -> Tensor:
    """A parameter or its gradient as real numbers in one row."""
    values = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return (torch.view_as_real(values) if values.is_complex() else values).float().flatten()


def _spread(values: Tensor) -> float:
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(values.cpu().numpy(), PERCENTILES)
        return float(high - low)


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())


def _seldom(active: Tensor) -> float:
    """Share of the columns of (samples, nodes) that are true in less than ACTIVE of the rows."""
    return _share(active.float().mean(dim=0) < ACTIVE)
