"""What a labelled subject of the zoo is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradscope.subject import Subject

__all__ = ["Case"]

# What weights, activations, structure or training bring about; not data, loss, wiring or formulas
# (scores that are not divided by the root of the width, GS601).
_CURABLE = {
    *("GS101", "GS102", "GS104", "GS201", "GS202", "GS203", "GS204", "GS206", "GS301", "GS302"),
    *("GS303", "GS402", "GS501", "GS502", "GS503"),
}


@dataclass(frozen=True)
class Case:
    """One subject, and what a diagnosis of it has to say.

    Attributes:
        name: unique in the zoo.
        architecture: of the split; all cases of one architecture lie on the same side of it.
        build: makes the subject.
        mistake: what somebody did wrong, in a few words; empty for a healthy subject.
        cause: the code that has to be found first; None for a healthy subject.
        must: all codes that have to be found, the cause included.
        may: codes that may be found beside them: they are true too.
        trained: how many steps the subject is trained before it is scanned.
        steps: of the scan.
        wants_author: whether only a person can mend it, though faults of its kind can be cured.
    """

    name: str
    architecture: str
    build: Callable[[], Subject]
    mistake: str = ""
    cause: str | None = None
    must: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    trained: int = 0
    steps: int = 8
    wants_author: bool = False

    @property
    def true(self) -> frozenset[str]:
        """All codes that are true of the subject."""
        return self.must | self.may

    @property
    def curable(self) -> bool:
        """Whether a remedy can cure the fault, not only its author."""
        return self.cause in _CURABLE and not self.wants_author

    @property
    def healthy(self) -> bool:
        return self.cause is None
