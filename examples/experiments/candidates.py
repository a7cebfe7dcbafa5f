"""The artificial derivatives that the search for a default compares, some of the library, some not.

Each is tried as it is; selective, for idle units alone; or annealed, handed over to the true
derivative in the first half of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor

from gradscope.derivatives import Derivative, derivative
from gradscope.derivatives.logistic import logistic
from gradscope.derivatives.relu import OfReLU
from gradscope.derivatives.sigmoid import OfSigmoid
from gradscope.patching import reach
from gradscope.trial import Running

__all__ = ["OF_RELU", "OF_SIGMOID", "TRUE", "Candidate", "named", "train_with"]

TRUE = "true derivative"
"""The candidate that the others are set beside."""

STAGES = 20
"""In how many steps a candidate is handed over in ``train_with``."""


@dataclass(frozen=True)
class Candidate:
    """One row of the comparison.

    Attributes:
        name: of it.
        derivative: what is used in the backward pass.
        share: of the training over which it is handed over to the true derivative; infinite if it
            never is, 0 for the true derivative from the first.
    """

    name: str
    derivative: Derivative
    share: float = math.inf


def named(candidates: Iterable[Candidate], only: str) -> list[Candidate]:
    """Those of a name, with * for any text, and the true derivative to set them beside."""
    return [each for each in candidates if each.name == TRUE or fnmatch(each.name, only)]


def train_with(
    candidate: Candidate, running: Running, sites: list[tuple[str, Derivative]], steps: int
) -> None:
    """Takes a training so many steps further, with the candidate at sites of its model.

    ``sites`` come with the candidate's derivative, made for each.
    """
    put = reach(running.model, sites) if candidate.share else None
    for stage in range(1, STAGES + 1):
        running.advance(steps * stage // STAGES)
        if put is not None and not math.isinf(candidate.share):
            for setting in put.settings:
                setting.set(max(0.0, 1 - stage / STAGES / candidate.share))


@dataclass(frozen=True)
class ReLUOneSided(OfReLU):
    """1 where x > 0, else scale sigma(k x): nothing is taken from units that are on."""

    name = "relu-one-sided"
    formula = "1 if x > 0 else scale sigma(k x)"
    source = "tried here"

    k: float = 1.0
    scale: float = 1.0

    def artificial(
        self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: object
    ) -> Tensor:
        return torch.where(x > 0, gradient, self.scale * logistic(gradient, x, self.k))


@dataclass(frozen=True)
class ReLUFloored(OfReLU):
    """max(sigma(k x), eps): sigma does not vanish far below zero."""

    name = "relu-floored"
    formula = "max(sigma(k x), eps)"
    source = "tried here"

    k: float = 3.5
    eps: float = 0.05

    def artificial(
        self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: object
    ) -> Tensor:
        return gradient * logistic(torch.ones_like(x), x, self.k).clamp_min(self.eps)


@dataclass(frozen=True)
class ReLUWindow(OfReLU):
    """sigma(k x) where abs(x) < width, the true derivative beyond."""

    name = "relu-window"
    formula = "sigma(k x) if abs(x) < width else the true one"
    source = "tried here"

    k: float = 3.5
    width: float = 0.5

    def artificial(
        self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: object
    ) -> Tensor:
        inside = x.abs() < self.width
        return torch.where(inside, logistic(gradient, x, self.k), self.true(gradient, x, y))


@dataclass(frozen=True)
class SigmoidScaled(OfSigmoid):
    """scale min(y, 1 - y), at most 1."""

    name = "sigmoid-scaled"
    formula = "min(1, scale min(y, 1 - y))"
    source = "tried here"

    scale: float = 2.0

    def artificial(
        self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: object
    ) -> Tensor:
        return gradient * (self.scale * torch.sigmoid(-x.abs())).clamp_max(1)


@dataclass(frozen=True)
class SigmoidMultiple(OfSigmoid):
    """scale y (1 - y), the true derivative multiplied: a larger step for the lower layers."""

    name = "sigmoid-multiple"
    formula = "scale y (1 - y)"
    source = "tried here"

    scale: float = 4.0

    def artificial(
        self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: object
    ) -> Tensor:
        return self.scale * self.true(gradient, x, y)


def _candidates() -> tuple[list[Candidate], list[Candidate]]:
    def sigma(k: float, selective: bool = False) -> Derivative:
        return derivative("relu-logistic", {"k": k, "selective": selective})

    def leaky(slope: float, selective: bool = False) -> Derivative:
        return derivative("relu-leaky", {"slope": slope, "selective": selective})

    minimum = derivative("sigmoid-min", {})
    of_relu = [
        Candidate(TRUE, sigma(1.0), 0.0),
        *(Candidate(f"sigma({k:g} x)", sigma(k)) for k in (0.5, 1.0, 2.0, 3.5, 7.0)),
        *(Candidate(f"sigma({k:g} x), annealed", sigma(k), 0.5) for k in (1.0, 3.5)),
        *(Candidate(f"sigma({k:g} x), selective", sigma(k, True)) for k in (0.5, 1.0, 2.0, 3.5)),
        *(Candidate(f"slope {s:g}", leaky(s)) for s in (0.01, 0.05, 0.1, 0.2, 0.3)),
        Candidate("slope 0.1, annealed", leaky(0.1), 0.5),
        *(Candidate(f"slope {s:g}, selective", leaky(s, True)) for s in (0.1, 0.3, 1.0)),
        Candidate("1 or sigma(x)", ReLUOneSided(k=1.0)),
        Candidate("1 or sigma(3.5 x)", ReLUOneSided(k=3.5)),
        Candidate("1 or 0.3 sigma(x)", ReLUOneSided(k=1.0, scale=0.3)),
        Candidate("max(sigma(3.5 x), 0.05)", ReLUFloored()),
        Candidate("sigma(3.5 x) in abs(x) < 0.5", ReLUWindow()),
        Candidate("sigma(3.5 x) in abs(x) < 2", ReLUWindow(width=2.0)),
    ]
    of_sigmoid = [
        Candidate(TRUE, minimum, 0.0),
        Candidate("min(y, 1 - y)", minimum),
        Candidate("min(y, 1 - y), annealed", minimum, 0.5),
        Candidate("min(y, 1 - y), selective", derivative("sigmoid-min", {"selective": True})),
        *(Candidate(f"{s:g} min(y, 1 - y)", SigmoidScaled(scale=s)) for s in (1.5, 2.0)),
        *(Candidate(f"{s:g} y (1 - y)", SigmoidMultiple(scale=s)) for s in (2.0, 4.0)),
        *(
            Candidate(f"y (1 - y) + {beta:g}", derivative("sigmoid-beta", {"beta": beta}))
            for beta in (0.05, 0.25)
        ),
    ]
    return of_relu, of_sigmoid


OF_RELU, OF_SIGMOID = _candidates()
