"""What layers are given, and what gradient they give back over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.zoo.reference.capture import Seen, observable
from tests.zoo.reference.statistics import Array, numbers, peak, rms


def feature_axis(seen: Seen, x: Tensor) -> int:
    """Where the input of a layer has its features: before the positions, or last."""
    kind = type(seen.module).__name__ if seen.module is not None else seen.operator
    for dimensions in (1, 2, 3):
        if f"{dimensions}d" in kind and "conv" in kind.lower():
            return x.ndim - 1 - dimensions
    return x.ndim - 1


def measured_input(seen: Seen | None) -> dict[str, float] | None:
    """Of the layer that a step begins with."""
    if seen is None or seen.role != "layer" or seen.given is None or not observable(seen.given):
        return None
    x = numbers(seen.given)
    levels = np.array([rms(each) for each in np.moveaxis(x, feature_axis(seen, seen.given), 0)])
    lively = levels[levels != 0]
    spread = float(levels.max() / np.median(lively)) if lively.size else float("nan")
    return {"rms": rms(x), "peak": peak(x), "feature_spread": spread}


def in_time(seen: Seen, x: Array) -> Array:
    """(time, samples, features)."""
    if x.ndim == 2:
        return x[:, None]
    return x.swapaxes(0, 1) if seen.module.batch_first else x  # type: ignore[union-attr]


def time_decay(seen: Seen, gradient: Tensor) -> float:
    """Of the RMS of the gradient of the input far from the loss, over that near to it."""
    far, first, last = [], [], []
    for sample in in_time(seen, numbers(gradient)).swapaxes(0, 1):
        reached = [t for t, g in enumerate(sample) if np.any(g != 0)]
        if not reached:
            continue
        middle = (reached[0] + reached[-1]) // 2
        far.append(sample[middle if seen.module.bidirectional else 0])  # type: ignore[union-attr]
        first.append(sample[reached[0]])
        last.append(sample[reached[-1]])
    if not far:
        return float("nan")
    both = seen.module.bidirectional  # type: ignore[union-attr]
    near = max(rms(np.array(first)), rms(np.array(last))) if both else rms(np.array(last))
    return rms(np.array(far)) / near


def returned_variation(outputs: Any, samples: int, variation: Any) -> float | None:
    """Of the first tensor that has a row for each sample, or several."""
    real = [y for y in outputs if observable(y)]
    rows = [y for y in real if len(y) == samples] or [y for y in real if len(y) % samples == 0]
    return variation(numbers(rows[0])) if rows else None


def subnormal(gradient: Tensor) -> float:
    """Share of what is not zero that is held with fewer digits than the type has."""
    size = np.abs(numbers(gradient))
    least = float(torch.finfo(gradient.dtype).smallest_normal)
    return float((size[size > 0] < least).mean()) if (size > 0).any() else float("nan")


class Rows:
    """Which rows of a weight are alike, by comparing every two that start alike."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.pairs: set[tuple[int, int]] = set()
        self.duplicates, self.arrived, self.spread = 0.0, False, 0.0
        if not weight.requires_grad or weight.ndim < 2 or weight[0].numel() < 2:
            return
        self.rows = flat(weight).copy()
        lengths = np.linalg.norm(self.rows, axis=1)
        with np.errstate(invalid="ignore"):
            self.spread = float(lengths.std() / lengths.mean()) if len(lengths) > 1 else 0.0
        known: dict[bytes, list[int]] = {}
        for i, row in enumerate(self.rows):
            if np.isfinite(row).all():
                known.setdefault((row + 0.0).tobytes(), []).append(i)
        alike = [group for group in known.values() if len(group) > 1]
        lively = [i for group in alike for i in group if self.rows[i].any()]
        self.duplicates = len(lively) / len(self.rows)
        self.pairs = {(i, j) for group in alike for i in group for j in group if i < j}

    def compare(self, gradient: Tensor | None) -> None:
        if gradient is None or not self.pairs:
            return
        self.arrived = True
        if gradient.layout != torch.strided:
            self.pairs = set()
            return
        g, least = flat(gradient), torch.finfo(gradient.dtype).eps ** 0.5
        self.pairs = {
            (i, j)
            for i, j in self.pairs
            if np.linalg.norm(g[i] - g[j]) <= least * np.linalg.norm(g[i])
            and (self.rows[i].any() or not g[i].any())
        }

    @property
    def symmetric(self) -> float:
        if not self.arrived or not self.pairs:
            return 0.0
        return len({i for pair in self.pairs for i in pair}) / len(self.rows)


def flat(x: Tensor) -> Array:
    x = x.detach()
    x = torch.view_as_real(x) if x.is_complex() else x
    return numbers(x).reshape(len(x), -1)
