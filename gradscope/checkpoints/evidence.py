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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.checkpoints.checkpoint import Checkpoint, OptimizerState, StoredTensor
from gradscope.checkpoints.statistics import chunks
from gradscope.stored import BatchNormEvidence, GradientEvidence

__all__ = [
    "batch_norm_evidence",
    "first_over_last",
    "gradient_evidence",
    "is_table",
]

# Half a megabyte of float64.
_CHUNK = 1 << 16

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


def first_over_last(evidence: Iterable[GradientEvidence], *, biases: bool = False) -> float:
    """Gradient RMS of the first weight over that of the last; NaN where there are not two.

    Weights have two dimensions or more; tables that are looked up are left out. A weight's gradient
    is the product of the backward signal and the layer's input, so that inputs that die on their
    way forward hide what dies on its way back; that of biases is the backward signal alone.
    """
    chosen = [
        each
        for each in evidence
        if (each.name.endswith("bias") if biases else len(each.shape) > 1 and not each.embedding)
    ]
    known = [each.gradient_rms for each in chosen if each.gradient_rms > 0]
    return known[0] / known[-1] if len(known) > 1 else math.nan


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
    steps = {name: _step(state) for name, state in optimizer.state.items()}
    most = max((step for step in steps.values() if step is not None), default=0.0)
    for name in dict.fromkeys((*optimizer.settings, *optimizer.state)):
        weight = checkpoint.weights.get(checkpoint.aliases.get(name, name))
        settings, state = optimizer.settings.get(name, {}), optimizer.state.get(name, {})
        shape = _shape(weight, state)
        module, _, last = name.rpartition(".")
        bias = checkpoint.weights.get(f"{module}.bias" if module else "bias")
        tensors = {key: each for key, each in state.items() if isinstance(each, StoredTensor)}
        step = steps.get(name)
        common: dict[str, Any] = {
            "name": name,
            "shape": shape,
            "optimizer": optimizer.kind,
            "has_state": bool(tensors),
            "step": step,
            "steps_behind": 0.0 if step is None else most - step,
            "rows_are_units": _rows_are_units(shape, None if last == "bias" else bias),
            "embedding": is_table(name, shape, bias),
            "learning_rate": _number(settings, "lr"),
            "initial_learning_rate": _number(settings, "initial_lr", _number(settings, "lr")),
            "epsilon": _number(settings, "eps"),
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
    first_decay, second_decay = _betas(settings)
    at = math.inf if step is None else max(step, 1.0)
    momentum = _number(settings, "momentum", 0.0)
    lr, eps = _number(settings, "lr"), _number(settings, "eps", 0.0)
    decay = _number(settings, "weight_decay", 0.0) if _is_coupled(kind, settings) else 0.0
    first = state.get("exp_avg")
    first_scale = 1.0 / (1.0 - first_decay**at)
    if "exp_avg_sq" in state:
        scale = 1.0 / (1.0 - second_decay**at)
        sums = _Rows(state["exp_avg_sq"], scale, first, first_scale, weight, decay, eps)
        update = lr * sums.step
        sums.travel = _TRAVEL * lr if lr > 0 else 0.0
    elif "exp_inf" in state:
        sums = _Rows(state["exp_inf"], 1.0, first, first_scale, weight, decay, eps, squared=False)
        update = lr * sums.step
    elif "square_avg" in state:
        scale = 1.0 / (1.0 - _fraction(settings, "alpha", 0.99) ** at)
        sums = _Rows(state["square_avg"], scale, None, 1.0, weight, decay, eps)
        # Without momentum an element moves by g / sqrt(v), one in the root mean square.
        buffer = state.get("momentum_buffer")
        update = lr * (_norm(buffer) if buffer is not None and momentum else sums.root_elements)
    elif "sum" in state:
        count = at if math.isfinite(at) else 1.0
        sums = _Rows(state["sum"], 1.0 / count, None, 1.0, weight, decay, eps)
        update = lr * sums.root_elements / math.sqrt(count)
    elif found := _factored(state):
        sums = _Rows(found, 1.0, None, 1.0, None, 0.0, 0.0)
        # Their steps are a share of the weight by construction, at most this.
        norm = math.nan if weight is None else _norm(weight)
        update = min(lr, 1.0 / math.sqrt(at)) * norm if at < math.inf else lr * norm
    elif "momentum_buffer" in state:
        momentum = min(max(momentum, 0.0), 0.999999)
        muon = "muon" in kind.lower()
        scale = 1.0 if muon else (1.0 - momentum) / (1.0 - _fraction(settings, "dampening", 0.0))
        sums = _Rows(None, 1.0, state["momentum_buffer"], scale, weight, decay, 0.0)
        sums.noise = math.sqrt((1.0 + momentum) / (1.0 - momentum))
        update = lr * (_muon_step(settings, sums.shape) if muon else sums.step / scale)
    else:
        return {}
    norm = math.sqrt(float(sums.weight.sum())) if sums.has_weight else math.nan
    if norm != norm and weight is not None:
        norm = _norm(weight)
    return {**sums.told(), "update_ratio": update / norm if norm else math.nan}


class _Rows:
    """Sums over the rows of a parameter's moments, gone through together.

    Args:
        second: moment, or None where the first has to stand for it.
        second_scale, first_scale: what undoes that the moments started at zero.
        first: moment, or None.
        weight: the parameter, where its shape is that of the moments.
        decay: coupled weight decay, to be taken out.
        eps: added to the root of the second moment.
        squared: whether the second moment is one of squares.
    """

    noise = 1.0
    travel = 0.0

    def __init__(
        self,
        second: StoredTensor | None,
        second_scale: float,
        first: StoredTensor | None,
        first_scale: float,
        weight: StoredTensor | None,
        decay: float,
        eps: float,
        *,
        squared: bool = True,
    ) -> None:
        led = second if second is not None else first
        if led is None:
            raise ValueError("one of the moments is needed")
        self.shape = led.shape
        fitting = [
            None if each is None or each.shape != led.shape else _by_rows(each)
            for each in (second, first, weight)
        ]
        self.has_second, self.has_first, self.has_weight = (each is not None for each in fitting)
        self.squared = squared
        rows = led.shape[0] if led.shape else 1
        self.columns = max(1, math.prod(led.shape[1:]))
        self.root_elements = math.sqrt(rows * self.columns)
        self.second, self.first, self.weight = torch.zeros(3, rows, dtype=torch.float64)
        self.decay = decay
        steps = 0.0
        for v, m, w in _together(fitting):
            at = (v or m or w).rows
            decayed = None if w is None else w.values.double() * decay
            mean = None if m is None else m.values.double() * first_scale
            if w is not None:
                self.weight[at] += w.values.double().square_().sum(dim=1)
            square = None
            if v is not None:
                square = v.values.double() * second_scale
                square = square if squared else square.square()
            if mean is not None:
                scaled = mean if square is None else mean / (square.sqrt() + eps)
                steps += float(scaled.square().sum())
            # E[g^2] where E[(g + d)^2] is kept, d = decay * w, and E[g + d] is the first moment,
            # whose noise makes single elements negative.
            if decay and decayed is not None and mean is not None and square is not None:
                square = square - 2 * decayed * mean + decayed.square()
            if decay and decayed is not None and mean is not None:
                mean = mean - decayed
            if square is not None:
                self.second[at] += square.sum(dim=1)
            if mean is not None:
                self.first[at] += mean.square().sum(dim=1)
        self.second.clamp_(min=0.0)
        self.step = math.sqrt(steps) if self.has_first else math.nan

    def told(self) -> dict[str, Any]:
        first, second = self.first / self.columns, self.second / self.columns
        size = second if self.has_second else first * self.noise**2
        decayed = (self.weight / self.columns).sqrt() * self.decay
        usual = float(size.quantile(_UPPER)) if 0 < len(size) < 1 << 24 else float(size.mean())
        silent = (size == 0) | (size < _SILENT**2 * usual)
        stopped = torch.zeros_like(silent)
        if self.has_first:
            if self.columns > 1:
                stopped = first.sqrt() < _DECAY_LEFT * decayed + self.travel * self.decay
            else:
                stopped = first.sqrt() < _DECAY_LEFT_OF_ONE * decayed
            if self.has_second:
                stopped |= first.sqrt() < _STOPPED * size.sqrt()
        rms = math.sqrt(float(size.mean())) if len(size) else math.nan
        return {
            "moment": "first" if not self.has_second else "second" if self.squared else "largest",
            "gradient_rms": rms,
            "mean_gradient_rms": math.sqrt(float(first.mean())) if self.has_first else math.nan,
            "decay_share": math.sqrt(float(decayed.square().mean())) / rms if rms else 0.0,
            "zero_rows": _share(size == 0),
            "silent_rows": _share(silent),
            "stopped_rows": _share(stopped & ~silent),
            "nonfinite": not bool((first + second).isfinite().all()),
        }


def _together(tensors: Sequence[Tensor | None]) -> Iterator[tuple[Any, Any, Any]]:
    """The same parts of tensors of one shape."""
    ways = [None if each is None else chunks(each, _CHUNK) for each in tensors]
    while True:
        parts = tuple(None if way is None else next(way, None) for way in ways)
        if all(part is None for part in parts):
            return
        yield parts[0], parts[1], parts[2]


def _by_rows(stored: StoredTensor) -> Tensor:
    """(rows, elements): of a vector, such as a bias, each element is a row."""
    tensor = stored.load()
    return tensor.reshape(-1, 1) if tensor.ndim < 2 else tensor


def _factored(state: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """Adafactor's mean squares of rows, or of all elements of a vector."""
    for key in ("row_var", "exp_avg_sq_row", "variance"):
        if key in state:
            return state[key]
    return None


def _muon_step(settings: Mapping[str, Any], shape: tuple[int, ...]) -> float:
    """Norm of an orthogonal matrix, as torch scales it."""
    high, wide = (*shape, 1, 1)[:2]
    adjusted = {"match_rms_adamw": 0.2 * math.sqrt(max(high, wide))}
    usual = math.sqrt(max(1.0, high / max(1, wide)))
    return math.sqrt(min(high, wide)) * adjusted.get(str(settings.get("adjust_lr_fn")), usual)


def _norm(stored: StoredTensor) -> float:
    return math.sqrt(
        sum(float(part.values.double().square().sum()) for part in chunks(stored.load(), _CHUNK))
    )


def _share(rows: Tensor) -> float:
    return float(rows.double().mean()) if len(rows) else 0.0


def _is_coupled(kind: str, settings: Mapping[str, Any]) -> bool:
    """Whether weight decay goes into the gradient, and so into the moments."""
    flag = settings.get("decoupled_weight_decay")
    if isinstance(flag, bool):
        return not flag
    return kind in ("Adam", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "SGD")


def _number(settings: Mapping[str, Any], key: str, default: float = math.nan) -> float:
    value = settings.get(key)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, int | float) else default


def _fraction(settings: Mapping[str, Any], key: str, default: float) -> float:
    value = _number(settings, key, default)
    return value if 0.0 <= value < 1.0 else default


def _betas(settings: Mapping[str, Any]) -> tuple[float, float]:
    betas = settings.get("betas")
    pair = betas if isinstance(betas, list | tuple) and len(betas) == 2 else (None, None)
    first, second = (
        _fraction({"beta": each}, "beta", usual)
        for each, usual in zip(pair, (0.9, 0.999), strict=True)
    )
    return first, second


def _step(state: Mapping[str, StoredTensor | float]) -> float | None:
    step = state.get("step")
    if isinstance(step, StoredTensor):
        step = step.load().double().sum().item() if math.prod(step.shape) == 1 else None
    return None if step is None or not math.isfinite(step) else float(step)


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
