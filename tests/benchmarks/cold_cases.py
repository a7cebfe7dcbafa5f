"""The networks that are declared, and those on which cold evidence is expected to mislead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from tests.benchmarks.cold_networks import (
    Transformer,
    cnn,
    mlp,
    shifted,
)
from tests.benchmarks.cold_training import (
    Case,
    adam,
    adamw,
    sgd,
)

_DEEP = (8,) * 8


@dataclass(frozen=True)
class Kind:
    """A kind of network: one that is healthy, one that vanishes, and what kills the healthy one.

    The rates that kill are those of SGD and of Adam, for so many steps.
    """

    sound: Callable[[], nn.Module]
    deep: Callable[[], nn.Module]
    deadly: tuple[tuple[float, int], tuple[float, int]]
    steps: int = 300
    batch: int = 64
    samples: int = 256


_OPTIMIZERS = {"sgd": sgd(), "adam": adam(), "adamw": adamw()}

_KINDS = {
    "MLP": Kind(mlp, lambda: mlp(nn.Sigmoid, hidden=10), ((5.0, 1), (0.3, 5))),
    "CNN": Kind(cnn, lambda: cnn(nn.Sigmoid, _DEEP), ((10.0, 5), (0.3, 5))),
    "Transformer": Kind(
        Transformer,
        lambda: Transformer(nn.Sigmoid, blocks=6, width=16, skip=False),
        ((5.0, 1), (1.0, 5)),
        steps=200,
        batch=32,
        samples=64,
    ),
}


def _declared() -> list[Case]:
    cases = []
    for name, kind in _KINDS.items():
        for optimizer, update in _OPTIMIZERS.items():
            rate, times = kind.deadly[optimizer != "sgd"]
            usual = Case(
                f"{name}, {optimizer}, ",
                "healthy",
                kind.sound,
                update,
                steps=kind.steps,
                batch=kind.batch,
                samples=kind.samples,
            )
            faulty = {
                "healthy": usual,
                "born dead": replace(usual, build=_off(kind.sound), rule="GS201"),
                "killed": replace(
                    usual, rule="GS201", shocks=tuple((50 + each, rate) for each in range(times))
                ),
                "vanishing": replace(usual, build=kind.deep, rule="GS101"),
            }
            cases += [
                replace(case, name=case.name + what, kind=what) for what, case in faulty.items()
            ]
    return cases


def _off(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: shifted(build(), 0.6, -9.0)


DECLARED = _declared()
"""Each kind of network with each optimizer, healthy and with each fault; every one counts.

Born dead: 60 % of the units before each ReLU start with a bias of -9. Killed: a few steps of a
learning rate far too high, 150 or 250 steps before the end.
"""
