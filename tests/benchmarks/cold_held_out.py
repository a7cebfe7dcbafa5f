"""Networks that no limit was set by, drawn at random: another seed gives as many others.

Other widths, depths, data, learning rates, schedules, lengths and batches than the declared ones,
up to networks that are trained until hardly anything is left to learn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from torch import nn

from tests.benchmarks.cold_data import (
    CLASSES,
    CLUSTERS,
    FEATURES,
    PICTURES,
    TEXT,
    TOKENS,
    WAVES,
    Data,
)
from tests.benchmarks.cold_networks import (
    Cut,
    Transformer,
    cnn,
    drawn_from,
    mlp,
    resnet,
    shifted,
    symmetric,
)
from tests.benchmarks.cold_training import (
    Build,
    Case,
    adam,
    adamw,
    half_cosine,
    linear_to_zero,
    named,
    sgd,
    warm_up,
)

KINDS = {
    "healthy": 28,
    "born dead": 3,
    "killed": 4,
    "vanishing": 6,
    "rate far too high": 2,
    "rate far too low": 2,
    "weights far too large": 2,
    "weights far too small": 2,
    "units alike": 2,
    "cut off": 2,
}
"""How many of each are drawn."""

RULES = {
    "born dead": "GS201",
    "killed": "GS201",
    "vanishing": "GS101",
    "rate far too high": "GS301",
    "rate far too low": "GS301",
    "weights far too large": "GS303",
    "weights far too small": "GS303",
    "units alike": "GS302",
    "cut off": "GS103",
}

_RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3, "nadam": 1e-3, "rmsprop": 5e-4}

_SHAPES: dict[str, tuple[int, int]] = {"clusters": (FEATURES, CLASSES), "waves": (8, 1)}

Draw = tuple[str, Data, Callable[[], nn.Module]]


def held_out(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for kind, number in KINDS.items():
        cases += [_drawn(draw, kind, len(cases) + each) for each in range(number)]
    return cases


def _drawn(draw: random.Random, kind: str, number: int) -> Case:
    network, data, build = _network(draw, kind)
    name = draw.choice([*["sgd", "adam", "adamw"] * 3, "nadam", "rmsprop"])
    rate = _RATES[name] * draw.choice([0.2, 0.5, 1.0, 2.0])
    # Nothing but clusters and waves is fast enough to be trained to the end.
    attends = network.startswith("Transformer")
    long = 2000 if data in (CLUSTERS, WAVES) else 600
    steps = draw.choice([150, 200, 300] if attends else [200, 400, long])
    schedule = draw.choice([None, None, half_cosine, linear_to_zero, warm_up])
    shocks: tuple[tuple[int, float], ...] = ()
    spoiled: tuple[int, float] | None = None
    if kind == "killed":
        first, deadly = draw.randrange(20, steps // 2), rate * draw.choice([100.0, 300.0, 1000.0])
        shocks = tuple((first + each, deadly) for each in range(5))
    elif kind == "healthy" and data is not TEXT and draw.random() < 0.15:
        spoiled = (draw.randrange(20, steps), 1e3)
    elif kind == "rate far too high":
        rate, schedule = _RATES[name] * draw.choice([300.0, 1000.0]), None
    elif kind == "rate far too low":
        rate, schedule = _RATES[name] * draw.choice([1e-4, 1e-5]), None
    suffix = {half_cosine: ", cosine", linear_to_zero: ", linear", warm_up: ", warm-up"}
    shown = f"{network}, {data.name}, {name} {rate:.2g}{suffix.get(schedule, '')}, {steps} steps"
    if spoiled:
        shown += ", a bad batch"
    return Case(
        f"{number + 1}: {shown}",
        kind,
        build,
        _optimizer(draw, name, rate),
        RULES.get(kind, ""),
        data,
        steps,
        draw.choice([16, 32] if attends else [16, 32, 64, 128]),
        draw.randrange(1000),
        draw.choice([None, None, None, 1.0]),
        schedule,
        shocks,
        samples=64 if attends else 256,
        spoiled=spoiled,
    )


def _optimizer(draw: random.Random, name: str, rate: float) -> Build:
    if name == "sgd":
        return sgd(rate, draw.choice([0.0, 5e-4]), draw.choice([0.8, 0.9, 0.95]))
    if name == "adam":
        return adam(
            rate, draw.choice([0.0, 0.0, 1e-4]), 1e-8, draw.choice([(0.9, 0.999), (0.9, 0.98)])
        )
    if name == "adamw":
        return adamw(rate, draw.choice([1e-2, 0.1]))
    return named({"nadam": "NAdam", "rmsprop": "RMSprop"}[name], rate)


def _network(draw: random.Random, kind: str) -> Draw:
    name, data, build = _vanishing(draw) if kind == "vanishing" else _sound(draw, kind)
    if kind == "born dead":
        share, shift = draw.choice([0.5, 0.7, 0.9]), draw.choice([-6.0, -12.0])
        return name, data, lambda: shifted(build(), share, shift)
    if kind == "weights far too large":
        return name, data, lambda: drawn_from(build(), 8.0)
    if kind == "weights far too small":
        return name, data, lambda: drawn_from(build(), 1e-3)
    if kind == "units alike":
        return name, data, lambda: symmetric(build())
    return name, data, build


def _sound(draw: random.Random, kind: str) -> Draw:
    plain = kind in ("weights far too large", "weights far too small", "units alike", "cut off")
    family = draw.choice(["MLP", "MLP", "CNN", "Transformer"])
    relu = kind in ("born dead", "killed", "units alike")
    activation = nn.ReLU if relu else draw.choice([*[nn.ReLU] * 4, nn.GELU, nn.SiLU, nn.Tanh])
    shown = activation.__name__
    if family == "MLP" or plain:
        data = draw.choice([PICTURES, CLUSTERS, WAVES])
        inputs, outputs = _SHAPES.get(data.name, (784, 10))
        hidden, width = draw.choice([2, 4, 6]), draw.choice([24, 48, 100])
        gain = draw.choice([None, 1.4]) if activation is nn.ReLU else None
        norm = None if plain else draw.choice([None, None, nn.BatchNorm1d, nn.LayerNorm])
        build = partial(
            mlp, activation, hidden, width, gain, inputs=inputs, outputs=outputs, norm=norm
        )
        extra = f" {norm.__name__}" if norm else ""
        if kind == "cut off":
            return (
                f"MLP {hidden}x{width} {shown}",
                data,
                lambda: Cut(build(outputs=width), nn.Linear(width, outputs)),
            )
        return f"MLP {hidden}x{width} {shown}{extra}", data, build
    if family == "CNN":
        if not relu and draw.random() < 0.3:
            return "ResNet", PICTURES, partial(resnet, draw.choice([8, 12]))
        widths = draw.choice([(12, 12), (6, 12, 24, 48), (16, 16, 16, 16)])
        normalised = draw.random() < 0.4
        extra = " BatchNorm" if normalised else ""
        sizes = "-".join(map(str, widths))
        return (
            f"CNN {sizes} {shown}{extra}",
            PICTURES,
            partial(cnn, activation, widths, normalised=normalised),
        )
    blocks, width = draw.choice([1, 3]), draw.choice([24, 48])
    data = draw.choice([PICTURES, TEXT])
    vocabulary = TOKENS if data is TEXT else 0
    activation = activation if activation is not nn.Tanh else nn.GELU
    return (
        f"Transformer {blocks}x{width} {activation.__name__}",
        data,
        partial(Transformer, activation, blocks, width, vocabulary=vocabulary),
    )


def _vanishing(draw: random.Random) -> Draw:
    way = draw.choice(["sigmoids", "small tanh", "CNN", "Transformer"])
    data = draw.choice([PICTURES, CLUSTERS])
    inputs, outputs = _SHAPES.get(data.name, (784, 10))
    hidden, width = draw.choice([7, 9, 12]), draw.choice([24, 48, 100])
    if way == "sigmoids":
        build = partial(mlp, nn.Sigmoid, hidden, width, inputs=inputs, outputs=outputs)
        return f"MLP {hidden}x{width} Sigmoid", data, build
    if way == "small tanh":
        gain = draw.choice([0.1, 0.2])
        build = partial(mlp, nn.Tanh, hidden, width, gain, inputs=inputs, outputs=outputs)
        return f"MLP {hidden}x{width} Tanh of gain {gain}", data, build
    if way == "CNN":
        return f"CNN {hidden}x12 Sigmoid", PICTURES, partial(cnn, nn.Sigmoid, (12,) * hidden)
    blocks = draw.choice([3, 4])
    return (
        f"Transformer {blocks}x{24} Sigmoid, no skips",
        PICTURES,
        partial(Transformer, nn.Sigmoid, blocks, 24, skip=False),
    )
