"""The settings of an optimizer as numbers, whatever a file has in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradscope.checkpoints.checkpoint import StoredTensor

__all__ = ["betas", "coupled_decay", "fraction", "muon_step", "number", "step_of"]


def number(settings: Mapping[str, Any], key: str, default: float = math.nan) -> float:
    """One of them; the default where it is no number."""
    value = settings.get(key)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        return float(value) if isinstance(value, int | float) else default
    except OverflowError:
        return default


def fraction(settings: Mapping[str, Any], key: str, default: float) -> float:
    """One of them; the default where it is none from 0 to below 1."""
    value = number(settings, key, default)
    return value if 0.0 <= value < 1.0 else default


def betas(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Decays of the first and the second moment."""
    told = settings.get("betas")
    pair = told if isinstance(told, list | tuple) and len(told) == 2 else (None, None)
    first, second = (
        fraction({"beta": each}, "beta", usual)
        for each, usual in zip(pair, (0.9, 0.999), strict=True)
    )
    return first, second


def coupled_decay(kind: str, settings: Mapping[str, Any]) -> float:
    """Weight decay that goes into the gradient, and so into the moments; 0 where it does not."""
    flag = settings.get("decoupled_weight_decay")
    is_coupled = not flag if isinstance(flag, bool) else kind in _COUPLED
    return number(settings, "weight_decay", 0.0) if is_coupled else 0.0


def step_of(state: Mapping[str, StoredTensor | float]) -> float | None:
    """How many steps a parameter has made; None where that is not told."""
    step = state.get("step")
    if isinstance(step, StoredTensor):
        step = step.load().double().sum().item() if math.prod(step.shape) == 1 else None
    return None if step is None or not math.isfinite(step) else float(step)


def muon_step(settings: Mapping[str, Any], shape: tuple[int, ...]) -> float:
    """Norm of an orthogonal matrix, as torch scales it."""
    high, wide = (*shape, 1, 1)[:2]
    adjusted = {"match_rms_adamw": 0.2 * math.sqrt(max(high, wide))}
    usual = math.sqrt(max(1.0, high / max(1, wide)))
    return math.sqrt(min(high, wide)) * adjusted.get(str(settings.get("adjust_lr_fn")), usual)


_COUPLED = ("Adam", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "SGD")
