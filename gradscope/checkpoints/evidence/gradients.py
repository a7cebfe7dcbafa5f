"""What a checkpoint tells about gradients that nobody measured.

An optimizer remembers gradients: Adam and its like their mean and mean square for each element,
SGD with momentum their sum. From these come each parameter's gradient RMS, the units that no
gradient reaches (rows whose mean square is nothing beside other rows'), the units that died lately
(rows whose mean has decayed to nothing while the mean square, of longer memory, has not), and how
far the next step would move each weight. Without an optimizer, a batch normalisation's scale and
shift tell how likely the ReLU behind it is to be off.

What is here is read, not measured, and misleads in ways of its own: a mean square of decay 0.999
remembers a thousand steps, momentum of 0.9 forgets in fifty what fires once in a hundred; clipping
changes all gradients by one factor; and a row is a unit only where the layer is no transposed
convolution.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gradscope.checkpoints.checkpoint import Checkpoint, OptimizerState, StoredTensor
from gradscope.checkpoints.evidence.moment_sums import Moments, MomentSums, moment_sums, norm
from gradscope.checkpoints.evidence.optimizer_settings import (
    betas,
    coupled_decay,
    fraction,
    muon_step,
    number,
    step_of,
)
from gradscope.stored import BatchNormEvidence, GradientEvidence

__all__ = [
    "batch_norm_evidence",
    "gradient_evidence",
    "is_table",
]

# A row has no gradient where its RMS is below this share of that of the row at the upper quantile.
# The median will not do: with half of the units dead it is zero.
_SILENT, _UPPER = 1e-3, 0.9

# Noise of independent steps leaves 0.23 at a decay of 0.9; fifty silent steps leave 1e-3. At 1e-2
# units that fire rarely are taken for dead: 44 % where 22 % are.
_STOPPED = 1e-3

# Of coupled weight decay that was taken out of a moment, so much may be left: weights move while
# the moment looks back. A single number comes as near to its decay by chance.
_DECAY_LEFT, _DECAY_LEFT_OF_ONE = 0.1, 0.01

# Steps by which Adam's weights swing about zero where nothing but coupled decay moves them.
_TRAVEL = 2.0

# Of a unit scale: a channel that is on less than once in 740 observations.
_OFF = 0.99865

_EMBEDDING = re.compile(r"(^|[._])(\w*emb(ed(ding)?s?)?|wte|wpe|lookup|lm_head)([._]|$)")
_ENTRIES, _ENTRIES_PER_FEATURE = 1000, 4


def gradient_evidence(checkpoint: Checkpoint) -> tuple[GradientEvidence, ...]:
    """One record for each parameter that an optimizer holds, in the order of the weights."""
    found = [
        record for optimizer in checkpoint.optimizers for record in _of_one(checkpoint, optimizer)
    ]
    place = {name: number for number, name in enumerate(checkpoint.weights)}
    return tuple(sorted(found, key=lambda record: place.get(record.name, len(place))))


def batch_norm_evidence(checkpoint: Checkpoint) -> tuple[BatchNormEvidence, ...]:
    """One record for each module with a scale, a shift and running statistics."""
    records = []
    for name, variance in checkpoint.weights.items():
        module, _, last = name.rpartition(".")
        prefix = f"{module}." if module else ""
        parts = [checkpoint.weights.get(prefix + part) for part in ("weight", "bias")]
        if last != "running_var" or f"{prefix}running_mean" not in checkpoint.weights:
            continue
        stored = [part for part in parts if part is not None and part.shape == variance.shape]
        if len(stored) == 2 and len(variance.shape) == 1 and variance.shape[0]:
            gamma, beta, spread = (each.load().double() for each in (*stored, variance))
            records.append(_batch_norm(module, gamma, beta, spread))
    return tuple(records)


def _batch_norm(name: str, gamma: Tensor, beta: Tensor, variance: Tensor) -> BatchNormEvidence:
    # The usual eps: a channel that does not vary puts out its shift whatever its scale.
    scale = gamma.abs() * (variance / (variance + 1e-5)).clamp(min=0.0).sqrt()
    # With neither scale nor shift (last normalisations that start at zero) it is as good as even.
    off = torch.special.ndtr(torch.where(beta == 0, 0.0, -beta / scale))
    normal = torch.finfo(torch.float32).tiny
    return BatchNormEvidence(
        name=name,
        channels=len(beta),
        off_probability=float(off.mean()),
        off_channels=float((off > _OFF).double().mean()),
        zero_variance=float((variance == 0).double().mean()),
        subnormal_variance=float(((variance > 0) & (variance < normal)).double().mean()),
        largest_variance=float(variance.amax()),
    )


# --- Optimizer state --------------------------------------------------------------------------


def _of_one(checkpoint: Checkpoint, optimizer: OptimizerState) -> Iterator[GradientEvidence]:
    steps = {name: step_of(state) for name, state in optimizer.state.items()}
    most = max((step for step in steps.values() if step is not None), default=0.0)
    for name in dict.fromkeys((*optimizer.settings, *optimizer.state)):
        weight = checkpoint.weights.get(checkpoint.aliases.get(name, name))
        settings, state = optimizer.settings.get(name, {}), optimizer.state.get(name, {})
        shape = _shape(weight, state)
        module, _, last = name.rpartition(".")
        bias = checkpoint.weights.get(f"{module}.bias" if module else "bias")
        tensors = {key: each for key, each in state.items() if isinstance(each, StoredTensor)}
        step = steps.get(name)
        if step == 0:
            tensors = {}  # Adagrad has state before it has seen a gradient
        common: dict[str, Any] = {
            "name": name,
            "shape": shape,
            "optimizer": optimizer.kind,
            "has_state": bool(tensors),
            "step": step,
            "steps_behind": 0.0 if step is None else most - step,
            "rows_are_units": _rows_are_units(shape, None if last == "bias" else bias),
            "embedding": is_table(name, shape, bias),
            "learning_rate": number(settings, "lr"),
            "initial_learning_rate": number(settings, "initial_lr", number(settings, "lr")),
            "epsilon": number(settings, "eps"),
        }
        yield GradientEvidence(**common, **_told(optimizer.kind, settings, tensors, weight, step))


def _told(
    kind: str,
    settings: Mapping[str, Any],
    state: Mapping[str, StoredTensor],
    weight: StoredTensor | None,
    step: float | None,
) -> dict[str, Any]:
    """The fields that come from the moments; none where there is no moment that is known."""
    first_decay, second_decay = betas(settings)
    at = math.inf if step is None else max(step, 1.0)
    momentum = number(settings, "momentum", 0.0)
    lr, eps = number(settings, "lr"), number(settings, "eps", 0.0)
    decay = coupled_decay(kind, settings)
    first = state.get("exp_avg")
    first_scale = 1.0 / (1.0 - first_decay**at)
    noise, travel = 1.0, 0.0
    if "exp_avg_sq" in state:
        scale = 1.0 / (1.0 - second_decay**at)
        moments = Moments(state["exp_avg_sq"], first, weight, scale, first_scale, decay, eps)
        sums = moment_sums(moments)
        update = lr * _root(sums.step)
        travel = _TRAVEL * lr if lr > 0 else 0.0
    elif "exp_inf" in state:
        moments = Moments(
            state["exp_inf"], first, weight, 1.0, first_scale, decay, eps, squared=False
        )
        sums = moment_sums(moments)
        update = lr * _root(sums.step)
    elif "square_avg" in state:
        scale = 1.0 / (1.0 - fraction(settings, "alpha", 0.99) ** at)
        moments = Moments(state["square_avg"], None, weight, scale, 1.0, decay)
        sums = moment_sums(moments)
        # Without momentum an element moves by g / sqrt(v), one in the root mean square.
        buffer = state.get("momentum_buffer")
        moved = norm(buffer) if buffer is not None and momentum else _root_elements(moments.shape)
        update = lr * moved
    elif "sum" in state:
        count = at if math.isfinite(at) else 1.0
        moments = Moments(state["sum"], None, weight, 1.0 / count, 1.0, decay)
        sums = moment_sums(moments)
        update = lr * _root_elements(moments.shape) / math.sqrt(count)
    elif found := _factored(state):
        moments = Moments(found, None, None)
        sums = moment_sums(moments)
        # Their steps are a share of the weight by construction, at most this.
        size = math.nan if weight is None else norm(weight)
        update = min(lr, 1.0 / math.sqrt(at)) * size if at < math.inf else lr * size
    elif "momentum_buffer" in state:
        momentum = min(max(momentum, 0.0), 0.999999)
        muon = "muon" in kind.lower()
        scale = 1.0 if muon else (1.0 - momentum) / (1.0 - fraction(settings, "dampening", 0.0))
        moments = Moments(None, state["momentum_buffer"], weight, 1.0, scale, decay)
        sums = moment_sums(moments)
        noise = math.sqrt((1.0 + momentum) / (1.0 - momentum))
        moved = muon_step(settings, moments.shape) if muon else _root(sums.step) / scale
        update = lr * moved
    else:
        return {}
    length = _root(sums.weight)
    if length != length and weight is not None:
        length = norm(weight)
    return {
        **_of_rows(moments, sums, noise, travel),
        "update_ratio": update / length if length else math.nan,
    }


def _of_rows(moments: Moments, sums: MomentSums, noise: float, travel: float) -> dict[str, Any]:
    """What the sums tell.

    Args:
        moments: of a parameter.
        sums: of their rows.
        noise: RMS of the gradients of single steps over that of the first moment.
        travel: by how much a weight moves that coupled weight decay alone moves.
    """
    nothing = torch.zeros(())
    first = (nothing if sums.first is None else sums.first) / sums.columns
    size = first * noise**2 if sums.second is None else sums.second / sums.columns
    decayed = (nothing if sums.weight is None else sums.weight) / sums.columns
    decayed = decayed.sqrt() * moments.decay
    usual = float(size.quantile(_UPPER)) if 0 < len(size) < 1 << 24 else float(size.mean())
    silent = (size == 0) | (size < _SILENT**2 * usual)
    stopped = torch.zeros_like(silent)
    if sums.first is not None:
        if sums.columns > 1:
            stopped = first.sqrt() < _DECAY_LEFT * decayed + travel * moments.decay
        else:
            stopped = first.sqrt() < _DECAY_LEFT_OF_ONE * decayed
        if sums.second is not None:
            stopped |= first.sqrt() < _STOPPED * size.sqrt()
    rms = math.sqrt(float(size.mean())) if len(size) else math.nan
    kind = "second" if moments.squared else "largest"
    return {
        "moment": "first" if sums.second is None else kind,
        "gradient_rms": rms,
        "mean_gradient_rms": math.nan if sums.first is None else math.sqrt(float(first.mean())),
        "decay_share": math.sqrt(float(decayed.square().mean())) / rms if rms else 0.0,
        "zero_rows": _share(size == 0),
        "silent_rows": _share(silent),
        "stopped_rows": _share(stopped & ~silent),
        "nonfinite": not bool((first + size).isfinite().all()),
    }


def _root(rows: Tensor | None) -> float:
    return math.nan if rows is None else math.sqrt(float(rows.sum()))


def _root_elements(shape: tuple[int, ...]) -> float:
    return math.sqrt(math.prod(shape))


def _factored(state: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """Adafactor's mean squares of rows, or of all elements of a vector."""
    for key in ("row_var", "variance"):
        if key in state:
            return state[key]
    return None


def _share(rows: Tensor) -> float:
    return float(rows.double().mean()) if len(rows) else 0.0


def _shape(
    weight: StoredTensor | None, state: Mapping[str, StoredTensor | float]
) -> tuple[int, ...]:
    if weight is not None:
        return weight.shape
    shapes = [each.shape for each in state.values() if isinstance(each, StoredTensor)]
    return max(shapes, key=math.prod, default=())


def _rows_are_units(shape: tuple[int, ...], bias: StoredTensor | None) -> bool | None:
    if len(shape) < 2:
        return True
    if bias is None or len(bias.shape) != 1 or shape[0] == shape[1]:
        return None
    fits = {shape[0]: True, shape[1]: False}
    return fits.get(bias.shape[0])


def is_table(name: str, shape: tuple[int, ...], bias: StoredTensor | None) -> bool:
    """Whether a tensor looks like one that is looked up, by its name or its shape.

    ``bias`` is the one beside it; tables have none.
    """
    if len(shape) != 2:
        return False
    by_shape = shape[0] >= max(_ENTRIES, _ENTRIES_PER_FEATURE * shape[1]) and bias is None
    return by_shape or _EMBEDDING.search(name.lower()) is not None
