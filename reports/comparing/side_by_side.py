"""The records of a comparison of two reports: plain values, as ``gradscope compare`` writes them.

:class:`SideBySide` is the format of ``gradscope compare --format json``: keys are the fields'
names in their order, findings are those of ``report.json``, and a float that is not finite is one
of the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from gradscope.records import Finding, Severity, Source, Tool

__all__ = [
    "COMPARISON_SCHEMA_VERSION",
    "FindingPair",
    "Parameters",
    "Picture",
    "PictureKind",
    "Place",
    "Reading",
    "Side",
    "SideBySide",
    "Standing",
]

COMPARISON_SCHEMA_VERSION = 1
"""Raised whenever a comparison written before would be read differently."""


class Standing(StrEnum):
    """How a finding of B stands to that of A, worst for B first.

    New; of a higher severity; of the same severity, its value further beyond the limit; the same;
    nearer to the limit; of a lower severity; gone though its rule was not left out; or not to be
    told, because B's report says that the rule was skipped.
    """

    NEW = "new"
    WORSE = "worse"
    STRONGER = "stronger"
    SAME = "same"
    WEAKER = "weaker"
    UNCHECKED = "unchecked"
    BETTER = "better"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Side:
    """What one of the two is.

    Attributes:
        name: of the file, as it was given.
        target: what was examined; another name than the file's where that is a saved report.
        kind: of the target.
        tool: what examined it.
        parameters: how many elements they have.
        steps: made by the optimizer before the checkpoint was saved, or measured; None where the
            checkpoint does not tell, or nothing was measured.
        optimizer: its class name, or None.
        source: where the numbers come from; None where there are none.
        findings: how many it has.
        loss: of a training run, the mean over its last steps; None elsewhere.
    """

    name: str
    target: str
    kind: str
    tool: Tool
    parameters: int
    steps: int | None
    optimizer: str | None
    source: Source | None
    findings: int
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class FindingPair:
    """One rule's finding in A, in B, or in both.

    Attributes:
        code, name: of the rule.
        standing: of B's finding to A's.
        measure: which of the evidence is compared: the first that both give; None where they have
            none in common, or there is only one finding.
        unchecked_in_a: of a new finding, whether A's report says that the rule was skipped.
        a, b: the findings, None where there is none.
    """

    code: str
    name: str
    standing: Standing
    measure: str | None
    unchecked_in_a: bool
    a: Finding | None
    b: Finding | None

    @property
    def is_regression(self) -> bool:
        """Whether B is worse for it: new or more severe, and at least a warning."""
        return (
            self.standing in (Standing.NEW, Standing.WORSE)
            and self.b is not None
            and self.b.severity.rank <= Severity.WARNING.rank
        )


@dataclass(frozen=True, slots=True)
class Parameters:
    """How the names of the parameters compare.

    Attributes:
        shared: how many names are in both.
        only_a, only_b: names that only one has, in its order.
        reshaped: names in both whose shapes differ.
    """

    shared: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    reshaped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Three numbers of one layer or site; None where nothing tells.

    Attributes:
        gradient: RMS of the weight's gradient as the optimizer remembers it, or of the backward
            signal (median over the steps).
        idle: share of units that get no gradient, or are dead or saturated.
        scale: RMS of the weight times the root of its fan-in, or RMS of the output (median).
    """

    gradient: float | None
    idle: float | None
    scale: float | None


@dataclass(frozen=True, slots=True)
class Place:
    """A layer or site that both have."""

    name: str
    a: Reading
    b: Reading

    @property
    def difference(self) -> float:
        """By how many powers of ten the two differ most; all units idle or none count as one."""
        idle = 0.0
        if self.a.idle is not None and self.b.idle is not None:
            idle = abs(self.a.idle - self.b.idle)
        return max(
            idle, _decades(self.a.gradient, self.b.gradient), _decades(self.a.scale, self.b.scale)
        )


class PictureKind(StrEnum):
    """What the readings are of: stored layers, or sites that were measured."""

    STORED = "stored"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Picture:
    """The layers or sites that both have, in A's order, and how many only one has."""

    kind: PictureKind
    places: tuple[Place, ...]
    only_a: int
    only_b: int


@dataclass(frozen=True, slots=True)
class SideBySide:
    """All that ``gradscope compare A B`` tells.

    Attributes:
        schema_version: of this record.
        worse: whether B has a finding at or above warning that is new or more severe.
        a, b: what is compared.
        findings: those of both, worst for B first.
        parameters: None where one of the two has none by name.
        picture: None where the two are of different kinds, one has none, or no parameter is in
            both.
        left_out: codes of findings that were not compared, because their rules are not wanted.
    """

    schema_version: int
    worse: bool
    a: Side
    b: Side
    findings: tuple[FindingPair, ...]
    parameters: Parameters | None
    picture: Picture | None
    left_out: tuple[str, ...]


def _decades(a: float | None, b: float | None) -> float:
    if a is None or b is None or a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    if not (0 < a < math.inf and 0 < b < math.inf):
        return math.inf
    return abs(math.log10(a) - math.log10(b))
