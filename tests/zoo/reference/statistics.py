"""What a profile says of a tensor, by NumPy in double precision from the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.reference.capture import Seen

Array = NDArray[np.float64]

ROWS, ELEMENTS, OBSERVATIONS = 64, 1024, 128


def numbers(x: Tensor) -> Array:
    x = x.detach()
    if x.layout != torch.strided:
        x = x.coalesce().to_dense()
    return x.to(torch.float64).numpy()


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


def variation(x: Array) -> float:
    """``x`` is (samples, ...)."""
    if len(x) == 1:
        return float("nan")
    deviation = float(np.sqrt(x.var(axis=0).mean()))
    return 0.0 if deviation == 0 else deviation / rms(x)


def evenly(count: int, most: int) -> list[int]:
    kept = min(count, most)
    return [k * count // kept for k in range(kept)]


def correlation(x: Array) -> float:
    if len(x) == 1:
        return float("nan")
    rows = x.reshape(len(x), -1)[:ROWS]
    rows = rows[:, evenly(rows.shape[1], ELEMENTS)]
    pairs = len(rows) * (len(rows) - 1)
    if not np.isfinite(rows).all():
        return float("nan")
    varied = rows[rows.max(axis=1) > rows.min(axis=1)]
    if len(varied) < 2:
        return 0.0
    matrix = np.corrcoef(varied)
    return float((matrix.sum() - np.trace(matrix)) / pairs)


def peak(x: Array) -> float:
    finite = np.abs(x[np.isfinite(x)])
    return float(finite.max()) if finite.size else float("nan")


def nonfinite(x: Array) -> int:
    return int((~np.isfinite(x)).sum())


def by_unit(x: Array, axis: int) -> Array:
    """(units, observations): samples first, then positions in order."""
    moved = np.moveaxis(x, axis, 0)
    return moved.reshape(len(moved), -1)


def effective_rank(x: Array, axis: int) -> float | None:
    matrix = by_unit(x, axis).T
    matrix = matrix[evenly(len(matrix), OBSERVATIONS)]
    if min(matrix.shape) < 2 or not np.isfinite(matrix).all():
        return None
    values = np.linalg.svd(matrix, compute_uv=False)
    if values.sum() == 0:
        return None
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def dormant(units: Array) -> float:
    magnitudes = np.abs(units).mean(axis=1)
    return float((magnitudes <= 0.025 * magnitudes.mean()).mean())


# --- Saturation -------------------------------------------------------------------------------

MAXIMUM = {
    "sigmoid": 0.25,
    "tanh": 1.0,
    "softsign": 1.0,
    "hardsigmoid": 1 / 6,
    "hardtanh": 1.0,
    "relu6": 1.0,
}
MODULES = {
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Softsign: "softsign",
    nn.Hardsigmoid: "hardsigmoid",
    nn.ReLU6: "relu6",  # a Hardtanh, too
    nn.Hardtanh: "hardtanh",
    nn.GLU: "glu",
}


def derivative(name: str, z: Tensor, *options: Any) -> Array:
    """Share of its maximum that the derivative of torch's own function has at ``z``."""
    function = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "softsign": functional.softsign,
        "hardsigmoid": functional.hardsigmoid,
        "hardtanh": functional.hardtanh,
        "relu6": functional.relu6,
    }[name]
    z = z.detach().to(torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(function(z, *options).sum(), z)
    return np.abs(gradient.numpy()) / MAXIMUM[name]


def argument(seen: Seen, position: int, name: str, default: Any) -> Any:
    if len(seen.arguments) > position:
        return seen.arguments[position]
    return seen.options.get(name, default)


def slopes(seen: Seen) -> Array | None:
    """Derivative over its maximum at each element of the output; None where unbounded."""
    module = seen.module
    if isinstance(module, (nn.RNN, nn.RNNCell)):
        return 1 - numbers(seen.y) ** 2 if module.nonlinearity == "tanh" else None
    kind = seen.operator
    if module is not None:
        kind = next((name for known, name in MODULES.items() if isinstance(module, known)), "")
    if kind == "glu":
        dim = argument(seen, 1, "dim", -1) if module is None else module.dim
        return derivative("sigmoid", argument(seen, 0, "input", None).chunk(2, dim)[1])
    if kind not in MAXIMUM:
        return None
    z = argument(seen, 0, "input", None)
    if kind == "relu6":
        lower = numbers(z) < 3
        return np.where(lower, 1.0, derivative(kind, z))
    if kind != "hardtanh":
        return derivative(kind, z)
    if module is not None:
        return derivative(kind, z, module.min_val, module.max_val)
    return derivative(
        kind, z, argument(seen, 1, "min_val", -1.0), argument(seen, 2, "max_val", 1.0)
    )


def rectifies(seen: Seen) -> bool:
    if isinstance(seen.module, (nn.RNN, nn.RNNCell)):
        return seen.module.nonlinearity == "relu"
    if isinstance(seen.module, (nn.ReLU, nn.ReLU6)):
        return True
    return seen.module is None and seen.operator in ("relu", "relu6")


def saturated(slope: Array) -> float:
    """``slope`` is (units, observations)."""
    flat = (slope < 0.01).sum(axis=1)
    return float((flat * 100 >= 95 * slope.shape[1]).mean())


# --- Attention --------------------------------------------------------------------------------


def open_scores(z: Tensor) -> float:
    least = torch.finfo(z.dtype).min / 2
    values = numbers(z)
    return float(np.abs(values[np.isfinite(values) & (values > least)]).max())


def entropy(weights: Array) -> float:
    rows = weights.reshape(-1, weights.shape[-1])
    rows = rows[~np.isnan(rows).any(axis=1)]
    logarithms = np.log(np.where(rows > 0, rows, 1.0))
    return float(-(rows * logarithms).sum(axis=1).mean())


def fused_scores(seen: Seen) -> Tensor:
    """The scores inside scaled_dot_product_attention, masked."""
    q, k = (argument(seen, i, name, None).double() for i, name in ((0, "query"), (1, "key")))
    mask = argument(seen, 3, "attn_mask", None)
    scale = seen.options.get("scale")
    if seen.options.get("enable_gqa"):
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    z = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if argument(seen, 5, "is_causal", False):
        z = z.masked_fill(~torch.ones(z.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    if mask is not None:
        z = z.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else z + mask
    return z


def attention(seen: Seen, fused: bool) -> tuple[float, float] | None:
    """The peak of the open scores and the entropy of the weights, where they are seen."""
    if seen.role != "attention":
        return None
    if seen.operator == "scaled_dot_product_attention":
        if not fused:
            return None
        z = fused_scores(seen)
        return open_scores(z), entropy(numbers(z.softmax(-1)))
    return open_scores(argument(seen, 0, "input", None)), entropy(numbers(seen.y))
