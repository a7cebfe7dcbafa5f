"""Faulty subjects, each beside the same subject without the mistake."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor, nn

from gradscope.subject import Subject
from tests.zoo.subjects.case import Case
from tests.zoo.subjects.datasets import images
from tests.zoo.subjects.optimizers import BuildOptimizer, adam
from tests.zoo.subjects.tasks import classify

__all__ = ["Pair", "Setup", "pair"]


@dataclass(frozen=True)
class Setup:
    """How a model is built and trained; with data of its own to be judged on, or without."""

    model: Callable[[], nn.Module]
    optimizer: BuildOptimizer = field(default_factory=adam)
    step: Callable[[nn.Module, Any], Tensor] = classify
    data: Callable[[], Iterable[Any]] = images
    validation: Callable[[], Iterable[Any]] | None = None

    def subject(self, name: str) -> Subject:
        evaluate = None if self.validation is None else self.validate
        return Subject(name, self.model, self.data, self.step, self.optimizer, evaluate)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The mean loss of some batches, without gradients."""
        assert self.validation is not None
        losses = [float(self.step(model, batch)) for batch in islice(self.validation(), 16)]
        return {"validation loss": statistics.fmean(losses)}


@dataclass(frozen=True)
class Pair:
    """A faulty subject, and its twin without the mistake: ``repaired`` trains clearly better."""

    case: Case
    repaired: Setup


def pair(
    name: str,
    architecture: str,
    mistake: str,
    cause: str,
    faulty: Setup,
    repaired: Setup,
    *,
    must: str = "",
    may: str = "",
    trained: int = 0,
    steps: int = 8,
    wants_author: bool = False,
) -> Pair:
    """One mistake.

    Args:
        name, architecture, mistake, cause, trained, steps, wants_author: as of :class:`Case`.
        faulty, repaired: the subject with the mistake and without it.
        must, may: codes, separated by spaces; ``cause`` need not be repeated in ``must``.
    """
    return Pair(
        Case(
            name,
            architecture,
            lambda: faulty.subject(name),
            mistake,
            cause,
            frozenset({cause, *must.split()}),
            frozenset(may.split()),
            trained,
            steps,
            wants_author,
        ),
        repaired,
    )
