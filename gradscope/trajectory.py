"""A training run as its checkpoints show it: plain records, no torch.

They are part of a profile (``Profile.trajectory``). Of each checkpoint little is kept, whatever the
size of the model, so that the report of a thousand checkpoints stays small.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradscope.severity import Severity

__all__ = ["History", "Snapshot", "SnapshotFinding", "histories", "places"]


@dataclass(frozen=True, slots=True)
class SnapshotFinding:
    """What is kept of a finding in one checkpoint.

    Attributes:
        code, name, severity: as of the finding.
        sites: the first few.
        affected: how many sites there are.
        values: of its evidence, by measure.
    """

    code: str
    name: str
    severity: Severity
    sites: tuple[str, ...]
    affected: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One checkpoint of a run.

    Attributes:
        name: its path from the folder that all of them lie in.
        step: how many optimizer steps had been made, as it tells or else its name; None where
            neither does.
        findings: what the rules found in it.
        unchecked: codes of rules that found nothing to read in it, such as those that read an
            optimizer's moments where there are none.
        gradient_first, gradient_last: RMS of the gradient of the first and of the last layer that
            an optimizer remembers a gradient of; NaN where it remembers none.
        inactive: largest share of a layer's units that get no gradient; NaN where nothing tells.
        update_ratio: median over layers of the norm of the next step over that of the weights; NaN
            where unknown.
        scale_low, scale_high: least and largest RMS of a layer's weights times the root of their
            fan-in; NaN where no layer has finite weights.
        unread: why it could not be read; empty where it was.
    """

    name: str
    step: int | None = None
    findings: tuple[SnapshotFinding, ...] = ()
    unchecked: tuple[str, ...] = ()
    gradient_first: float = math.nan
    gradient_last: float = math.nan
    inactive: float = math.nan
    update_ratio: float = math.nan
    scale_low: float = math.nan
    scale_high: float = math.nan
    unread: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """One fault over the checkpoints of a run.

    Attributes:
        code, name: of the rule.
        severity: in the last checkpoint that has it.
        seen: for each checkpoint whether it has the fault, None where it does not tell.
    """

    code: str
    name: str
    severity: Severity
    seen: tuple[bool | None, ...]

    @property
    def first(self) -> int:
        """Index of the first checkpoint that has it."""
        return self.seen.index(True)

    @property
    def last(self) -> int:
        """Index of the last checkpoint that has it."""
        return len(self.seen) - 1 - self.seen[::-1].index(True)

    @property
    def lasts(self) -> bool:
        """Whether no checkpoint after the last that has it tells that it has not."""
        return False not in self.seen[self.last :]

    @property
    def unbroken(self) -> bool:
        """Whether no checkpoint after the first that has it tells that it has not."""
        return False not in self.seen[self.first :]

    @property
    def faulty(self) -> int:
        """How many checkpoints have it."""
        return self.seen.count(True)

    @property
    def telling(self) -> int:
        """How many checkpoints tell whether they have it."""
        return len(self.seen) - self.seen.count(None)


def places(snapshots: Sequence[Snapshot]) -> list[str]:
    """Where in the run each is: ``step 1,200``, its name where that is unknown or another's too."""
    steps = Counter(each.step for each in snapshots)
    return [
        each.name if each.step is None or steps[each.step] > 1 else f"step {each.step:,}"
        for each in snapshots
    ]


def histories(snapshots: Sequence[Snapshot]) -> tuple[History, ...]:
    """Of each fault that any checkpoint has, those that last first, then by when they began."""
    found = {each.code: each for snapshot in snapshots for each in snapshot.findings}
    told = (
        History(code, last.name, last.severity, tuple(_seen(code, snapshots)))
        for code, last in found.items()
    )
    return tuple(sorted(told, key=lambda each: (not each.lasts, each.first, each.code)))


def _seen(code: str, snapshots: Sequence[Snapshot]) -> Iterable[bool | None]:
    for snapshot in snapshots:
        if any(each.code == code for each in snapshot.findings):
            yield True
        else:
            yield None if snapshot.unread or code in snapshot.unchecked else False
