"""Rules: each reads a profile and says whether one fault is there. One rule per file.

A rule's file holds its page (the class docstring), its limits, its check, and two seeded subjects:
``bad()``, which it must find, and ``good()``, the nearest healthy twin, on which it must be silent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import field, fields
from typing import Any, ClassVar, Generic, TypeVar

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules.training import TrainingProfile
from gradscope.stored import Stored
from gradscope.subject import Subject

__all__ = ["Rule", "describe_limits", "first_faulty", "in_most_steps", "limit"]

L = TypeVar("L")

MOST_STEPS = 5 / 8
"""A fault of single steps is none; one that shows in this share of the steps is."""


class Rule(ABC, Generic[L]):
    """One fault, and how it is told from health.

    Attributes:
        code: never reused.
        name: states the fault.
        limits: the default limits, a frozen dataclass of :func:`limit` fields.
        explained_by: codes of the faults that bring this one about, most fundamental first.
        acts_after_update: whether the fault is one of the updates, so that nothing that shows in
            the step before the first faulty one is its doing.
        whole: whether the fault is read from all steps together, so that an update among them may
            have brought it about.
        needs_data: whether made-up inputs leave it nothing to say; it is skipped on them.
        example_steps: how many ``bad()`` and ``good()`` need to be told apart.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    limits: L
    explained_by: ClassVar[tuple[str, ...]] = ()
    acts_after_update: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False
    example_steps: ClassVar[int] = 8

    @classmethod
    def reads_stored(cls) -> bool:
        """Whether a checkpoint alone tells the rule something."""
        return cls.check_stored is not Rule.check_stored

    @classmethod
    def judges_training(cls) -> bool:
        """Whether a training that goes on tells the rule something."""
        return cls.check_training is not Rule.check_training

    @property
    def steps(self) -> int:
        """How many steps the rule looks from on by default: its limit of that name, else 1."""
        return int(getattr(self.limits, "steps", 1))

    @abstractmethod
    def check(self, profile: Profile, limits: L) -> Finding | Skipped | None:
        """The fault as found in the profile; None where there is none; Skipped if unknowable."""

    def check_stored(self, stored: Stored, limits: L) -> Finding | Skipped | None:
        """The fault as found in a checkpoint that was read and not run; as ``check``.

        Evidence has ``Source.WEIGHTS`` or ``Source.OPTIMIZER_STATE``, and limits of its own; what
        the checkpoint does not hold is Skipped. A rule without this is not asked.
        """
        raise NotImplementedError

    def check_training(self, profile: TrainingProfile, limits: L) -> Finding | Skipped | None:
        """The fault as found in a training that goes on; as ``check``.

        It has to be true of what a monitor measures (decision 30); nobody asked a question, so
        what is not known is silence. A rule without this is not asked.
        """
        raise NotImplementedError

    def brought_about(self, cause: Finding, profile: Profile) -> bool:
        """Whether a fault of ``explained_by`` is, where it was found, enough to explain this one.

        Asked only if both were found; a rule that can tell from their places overrides it.
        """
        return True

    @abstractmethod
    def bad(self) -> Subject:
        """A small subject that has the fault, whatever the seed."""

    @abstractmethod
    def good(self) -> Subject:
        """Its nearest healthy twin: no rule at all fires on it."""

    def finding(
        self,
        severity: Severity,
        sites: Iterable[str],
        message: str,
        evidence: dict[str, Measure],
        *,
        since: int = 0,
    ) -> Finding:
        """A finding of this rule; ``since`` is the first step at which it shows."""
        return Finding(self.code, self.name, severity, tuple(sites), message, evidence, since=since)

    def too_few(self, profile: Profile, needed: float) -> Skipped | None:
        """Why the rule has to be skipped where the profile has fewer steps than it needs."""
        if profile.steps >= needed:
            return None
        return Skipped(
            self.code, f"{profile.steps} steps were passed, {needed:g} are needed (--steps)"
        )


def limit(default: float, unit: str, source: str) -> Any:
    """A field of a rule's limits: its default, its unit and where the default comes from."""
    return field(default=default, metadata={"unit": unit, "source": source})


def describe_limits(limits: Any) -> Iterator[tuple[str, float, str, str]]:
    """Name, value, unit and source of each limit."""
    for entry in fields(limits):
        yield (
            entry.name,
            getattr(limits, entry.name),
            entry.metadata["unit"],
            entry.metadata["source"],
        )


def in_most_steps(faulty: Iterable[bool]) -> bool:
    """Whether the fault shows in at least 5 of 8 steps."""
    seen = list(faulty)
    return bool(seen) and sum(seen) >= MOST_STEPS * len(seen)


def first_faulty(faulty: Iterable[bool]) -> int:
    """The number of the first step at which the fault shows; 0 where it never does."""
    return next((step for step, shows in enumerate(faulty) if shows), 0)
