"""Every artificial derivative as a formula of its own, in float64 and without torch.

What the contract compares with. Nothing here is taken from the code under test but names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.derivatives.isigmoid import Isigmoid

Formula = Callable[[float], float]


@dataclass(frozen=True)
class Case:
    """One derivative with its parameters, on one setting of its operator.

    Attributes:
        name: of the derivative.
        native: the operator as a user of torch calls it; the second argument is ``inplace``.
        slope: the artificial derivative that is meant.
        bound: its largest magnitude.
        true: the operator's own derivative.
        kinks: where the slope jumps or bends, for tests that differentiate it.
        parameters: of the derivative.
        arguments: of the operator.
        passes_nan: whether an input that is not a number leaves a gradient that is one.
    """

    name: str
    native: Callable[[Tensor, bool], Tensor]
    slope: Formula
    bound: float
    true: Formula
    kinks: tuple[float, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    passes_nan: bool = False

    def __str__(self) -> str:
        settings = {**self.parameters, **self.arguments}
        return " ".join([self.name, *(f"{name}={value}" for name, value in settings.items())])


def sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


def phi(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def window(k: float, low: float, high: float, height: float = 1.0) -> Formula:
    top = sigma(k * (high - low) / 2) ** 2
    return lambda x: height * sigma(k * (x - low)) * sigma(k * (high - x)) / top


def between(low: float, high: float, height: float = 1.0) -> Formula:
    return lambda x: height if low < x < high else 0.0


def floor(true: Formula, eps: float, root: float = -math.inf) -> Formula:
    def slope(x: float) -> float:
        d = true(x)
        sign = math.copysign(1, d if d != 0 else x - root)
        return sign * max(abs(d), eps)

    return slope


def gelu(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2 + x * phi(x) if abs(x) < 30 else float(x > 0)


def gelu_tanh(x: float) -> float:
    if abs(x) > 30:
        return float(x > 0)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    rate = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    t = math.tanh(inner)
    return (1 + t) / 2 + x * (1 - t * t) * rate / 2


def silu(x: float) -> float:
    return sigma(x) * (1 + x * (1 - sigma(x)))


def mish(x: float) -> float:
    t = math.tanh(x if x > 30 else math.log1p(math.exp(x)))
    return t + x * sigma(x) * (1 - t * t)


def elu(alpha: float, scale: float = 1.0) -> Formula:
    return lambda x: scale if x > 0 else scale * alpha * math.exp(max(x, -700))


def softsign(x: float) -> float:
    return 1 / (1 + abs(x)) ** 2


def to_jump(x: float, decimals: int = 0) -> float:
    z = x * 10**decimals
    return abs(z - math.floor(z) - 0.5)


def step(x: Tensor, inplace: bool, value: float = 0.0) -> Tensor:
    values = torch.tensor(value, dtype=x.dtype)
    return x.heaviside_(values) if inplace else torch.heaviside(x, values)


def logistic(k: float) -> Formula:
    return lambda x: sigma(k * x)


def leak(slope: float) -> Formula:
    return lambda x: 1.0 if x > 0 else slope


def smaller(x: float) -> float:
    return math.exp(-abs(x)) / (1 + math.exp(-abs(x)))


def relu(x: Tensor, inplace: bool) -> Tensor:
    return functional.relu(x, inplace)


def sigmoid(x: Tensor, inplace: bool) -> Tensor:
    return x.sigmoid_() if inplace else x.sigmoid()


def tanh(x: Tensor, inplace: bool) -> Tensor:
    return x.tanh_() if inplace else x.tanh()


def sign(x: Tensor, inplace: bool) -> Tensor:
    return x.sign_() if inplace else x.sign()


def rounded(x: Tensor, inplace: bool) -> Tensor:
    return x.round_() if inplace else x.round()


def flat(x: float) -> float:
    return 0.0


def sigmoid_slope(x: float) -> float:
    return sigma(x) * sigma(-x)


def raised(beta: float) -> Formula:
    return lambda x: sigmoid_slope(x) + beta


def leaky(alpha: float, k: float) -> Case:
    return Case(
        "leaky-relu-logistic",
        lambda x, inplace: functional.leaky_relu(x, alpha, inplace),
        lambda x: alpha + (1 - alpha) * sigma(k * x),
        max(1.0, alpha),
        lambda x: 1.0 if x > 0 else alpha,
        parameters={"k": k},
        arguments={"negative_slope": alpha},
    )


def hardtanh(low: float, high: float, k: float) -> Case:
    return Case(
        "hardtanh-logistic",
        lambda x, inplace: functional.hardtanh(x, low, high, inplace),
        window(k, low, high),
        1,
        between(low, high),
        parameters={"k": k},
        arguments={"min_val": low, "max_val": high},
    )


def floored_elu(alpha: float, eps: float) -> Case:
    return Case(
        "elu-floor",
        lambda x, inplace: functional.elu(x, alpha, inplace),
        floor(elu(alpha), eps),
        1,
        elu(alpha),
        (math.log(eps / alpha), 0.0),
        {"eps": eps},
        {"alpha": alpha},
        passes_nan=True,
    )


def softplus(beta: float, eps: float) -> Case:
    return Case(
        "softplus-floor",
        lambda x, inplace: functional.softplus(x, beta, 30.0),
        floor(logistic(beta), eps),
        1,
        logistic(beta),
        (math.log(eps / (1 - eps)) / beta,),
        {"eps": eps},
        {"beta": beta, "threshold": 30.0},
    )


def hardswish(x: float) -> float:
    return x / 3 + 0.5 if -3 < x < 3 else float(x >= 3)


ALL: dict[str, Any] = {"selective": False}
"""For derivatives that are selective unless told otherwise; that has tests of its own."""

CASES = (
    Case("relu-logistic", relu, logistic(1), 1, lambda x: float(x > 0), parameters=ALL),
    Case(
        "relu-logistic", relu, logistic(3.5), 1, lambda x: float(x > 0), parameters={"k": 3.5} | ALL
    ),
    Case("relu-leaky", relu, leak(0.01), 1, leak(0.0), (0.0,), passes_nan=True),
    Case("relu-leaky", relu, leak(0.3), 1, leak(0.0), (0.0,), {"slope": 0.3}, passes_nan=True),
    Case("sigmoid-min", sigmoid, smaller, 0.5, sigmoid_slope, (0.0,)),
    Case("sigmoid-beta", sigmoid, raised(0.05), 0.3, sigmoid_slope),
    Case("sigmoid-beta", sigmoid, raised(0.2), 0.45, sigmoid_slope, parameters={"beta": 0.2}),
    Case(
        "tanh-min",
        tanh,
        lambda x: min(1.0, 4 * sigma(-2 * abs(x))),
        1,
        lambda x: 4 * sigma(2 * x) * sigma(-2 * x),
        (math.log(3) / 2, -math.log(3) / 2),
    ),
    leaky(0.01, 2.0),
    leaky(0.3, 5.0),
    Case(
        "leaky-relu-logistic",
        lambda x, inplace: functional.leaky_relu(x, -0.5),
        lambda x: 1.0 if x > 0 else -0.5,
        1,
        lambda x: 1.0 if x > 0 else -0.5,
        (0.0,),
        arguments={"negative_slope": -0.5},
        passes_nan=True,
    ),
    Case(
        "isigmoid-min",
        lambda x, inplace: Isigmoid(0.01, 1.0)(x),
        lambda x: 1.0 if abs(x) >= 0.01 else smaller(x),
        1,
        lambda x: 1.0 if abs(x) >= 0.01 else sigmoid_slope(x),
        (0.0, 0.01, -0.01),
    ),
    Case(
        "isigmoid-min",
        lambda x, inplace: Isigmoid(2.0, 0.1)(x),
        lambda x: 0.1 if abs(x) >= 2 else smaller(x),
        0.5,
        lambda x: 0.1 if abs(x) >= 2 else sigmoid_slope(x),
        (0.0, 2.0, -2.0),
        arguments={"a": 2.0, "alpha": 0.1},
    ),
    Case(
        "relu6-logistic",
        lambda x, inplace: functional.relu6(x, inplace),
        window(2, 0, 6),
        1,
        between(0, 6),
    ),
    hardtanh(-1.0, 1.0, 2.0),
    hardtanh(0.5, 4.0, 7.0),
    Case(
        "hardsigmoid-logistic",
        lambda x, inplace: functional.hardsigmoid(x, inplace),
        window(2, -3, 3, 1 / 6),
        1 / 6,
        between(-3, 3, 1 / 6),
    ),
    Case(
        "hardswish-logistic",
        lambda x, inplace: functional.hardswish(x, inplace),
        lambda x: (max(x, -3) / 3 + 0.5 if x < 3 else 1) * sigma(2 * (x + 3)),
        1.5,
        hardswish,
        (-3.0, 3.0),
    ),
    floored_elu(1.0, 0.05),
    floored_elu(0.5, 0.2),
    Case(
        "selu-floor",
        lambda x, inplace: functional.selu(x, inplace),
        floor(elu(1.6732632423543772, 1.0507009873554805), 0.05),
        1.76,
        elu(1.6732632423543772, 1.0507009873554805),
        (0.0, math.log(0.05 / 1.0507009873554805 / 1.6732632423543772)),
        passes_nan=True,
    ),
    Case(
        "gelu-floor",
        lambda x, inplace: functional.gelu(x),
        floor(gelu, 0.05, -0.7518),
        1.13,
        gelu,
        (-0.7518, -2.2, -0.68, -0.82),
    ),
    Case(
        "gelu-floor",
        lambda x, inplace: functional.gelu(x, approximate="tanh"),
        floor(gelu_tanh, 0.05, -0.7518),
        1.13,
        gelu_tanh,
        (-0.7525, -2.2, -0.68, -0.82),
        arguments={"approximate": "tanh"},
    ),
    Case(
        "silu-floor",
        lambda x, inplace: functional.silu(x, inplace),
        floor(silu, 0.05, -1.2785),
        1.1,
        silu,
        (-1.2785,),
    ),
    Case(
        "mish-floor",
        lambda x, inplace: functional.mish(x, inplace),
        floor(mish, 0.05, -1.1924),
        1.09,
        mish,
        (-1.1924,),
    ),
    softplus(1.0, 0.05),
    softplus(3.0, 0.2),
    Case(
        "softsign-floor",
        lambda x, inplace: functional.softsign(x),
        floor(softsign, 0.05),
        1,
        softsign,
        (0.0, math.sqrt(20) - 1, 1 - math.sqrt(20)),
    ),
    Case("sign-straight-through", sign, lambda x: 1.0, 1, flat, passes_nan=True),
    Case(
        "sign-straight-through",
        sign,
        lambda x: float(abs(x) <= 1.5),
        1,
        flat,
        parameters={"clip": 1.5},
        passes_nan=True,
    ),
    Case("step-straight-through", step, lambda x: 1.0, 1, flat, passes_nan=True),
    Case("round-straight-through", rounded, lambda x: 1.0, 1, flat, passes_nan=True),
    Case("sign-triangular", sign, lambda x: 2 * max(0.0, 1 - abs(x)), 2, flat, (-1.0, 0.0, 1.0)),
    Case(
        "step-triangular",
        step,
        lambda x: max(0.0, 1 - abs(x) / 4) / 4,
        0.25,
        flat,
        (-4.0, 0.0, 4.0),
        {"width": 4.0},
    ),
    Case(
        "step-triangular",
        lambda x, inplace: step(x, inplace, 0.5),
        lambda x: max(0.0, 1 - abs(x)),
        1,
        flat,
        (-1.0, 0.0, 1.0),
        arguments={"values": torch.tensor(0.5)},
    ),
    Case("round-triangular", rounded, lambda x: 4 * max(0.0, 0.5 - to_jump(x)), 2, flat),
    Case(
        "round-triangular",
        lambda x, inplace: x.round_(decimals=1) if inplace else x.round(decimals=1),
        lambda x: 4 * max(0.0, 0.5 - to_jump(x, 1)),
        2,
        flat,
        arguments={"decimals": 1},
    ),
    Case("sign-fast-sigmoid", sign, lambda x: 1 / (1 + 25 * abs(x)) ** 2, 1, flat, (0.0,)),
    Case("step-fast-sigmoid", step, lambda x: 1 / (1 + 25 * abs(x)) ** 2, 1, flat, (0.0,)),
    Case(
        "round-fast-sigmoid",
        rounded,
        lambda x: 1 / (1 + 5 * to_jump(x)) ** 2,
        1,
        flat,
        parameters={"k": 5.0},
    ),
)
