"""What each checkpoint of a run gives: its report, the little that is kept of it, and its order."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gradscope.checked import one_line
from gradscope.checkpoints import name_order, named_step
from gradscope.config import Settings
from gradscope.errors import GradscopeError
from gradscope.inactive import inactive_units
from gradscope.pipeline import scan_checkpoint
from gradscope.records import Report
from gradscope.trajectory import Snapshot, SnapshotFinding
from gradscope.verify import Progress

__all__ = ["Examined", "Found", "Task", "examined", "in_order", "unread"]

_SITES_KEPT = 3


@dataclass(frozen=True)
class Task:
    """One checkpoint to examine, as a process of its own is told.

    Attributes:
        path: of the file or folder.
        name: what the report calls it.
        trust_pickle: whether code that a pickle in it names may run.
        codes: of the rules to run.
        settings: limits of rules.
    """

    path: Path
    name: str
    trust_pickle: bool
    codes: tuple[str, ...]
    settings: Settings


@dataclass(frozen=True)
class Examined:
    """What became of a task; no report where the checkpoint could not be read."""

    snapshot: Snapshot
    report: Report | None = None


def examined(task: Task, progress: Progress | None = None) -> Examined:
    """Diagnoses one checkpoint; what goes wrong is said in the snapshot."""
    try:
        report = scan_checkpoint(
            task.path,
            trust_pickle=task.trust_pickle,
            select=task.codes,
            settings=task.settings,
            progress=progress,
        )
    except GradscopeError as error:
        return unread(task, str(error))
    except Exception as error:
        # One file that nobody foresaw must not cost the report of all others.
        why = f"{one_line(error)}. This was not foreseen; scan it by itself with --debug."
        return unread(task, why)
    return Examined(_snapshot(task, report), report)


def unread(task: Task, why: str) -> Examined:
    """What is said of a checkpoint that could not be read."""
    return Examined(Snapshot(task.name, named_step(task.path), unread=why))


def _snapshot(task: Task, report: Report) -> Snapshot:
    assert report.profile is not None and report.profile.stored is not None
    stored = report.profile.stored
    evidence = [each for layer in stored.layers if (each := stored.gradient(layer.name))]
    gradients = [each.gradient_rms for each in evidence if each.gradient_rms >= 0]
    updates = [each.update_ratio for each in evidence if math.isfinite(each.update_ratio)]
    inactive = inactive_units(stored).values()
    scales = [scale for layer in stored.layers if math.isfinite(scale := layer.scale)]
    skipped = {skip.what for skip in report.skipped}
    return Snapshot(
        name=task.name,
        step=named_step(task.path) if stored.step is None else stored.step,
        findings=tuple(
            SnapshotFinding(
                each.code,
                each.name,
                each.severity,
                each.sites[:_SITES_KEPT],
                len(each.sites),
                {measure: seen.value for measure, seen in each.evidence.items()},
            )
            for each in report.findings
        ),
        unchecked=tuple(code for code in task.codes if code in skipped),
        gradient_first=gradients[0] if gradients else math.nan,
        gradient_last=gradients[-1] if gradients else math.nan,
        inactive=max(inactive, default=math.nan),
        update_ratio=statistics.median(updates) if updates else math.nan,
        scale_low=min(scales, default=math.nan),
        scale_high=max(scales, default=math.nan),
    )


def in_order(tasks: Sequence[Task], snapshots: Mapping[int, Snapshot]) -> list[int]:
    """The checkpoints in the order of training, as indices of tasks, which are in that of names.

    Those whose step is known stand by it. Others keep their place behind the one before them if
    their names are numbered; else they stand at the ends, where their names put them.
    """
    steps = [snapshots[index].step for index in range(len(tasks))]
    if all(step is None for step in steps):
        return list(range(len(tasks)))
    keys: list[tuple[int, int]] = []
    before = -1
    for task, step in zip(tasks, steps, strict=True):
        group = name_order(task.path)[0]
        if step is None:
            keys.append((group, before))
        else:
            keys.append((1, step))
            before = step
    return sorted(range(len(tasks)), key=lambda index: (*keys[index], index))


@dataclass
class Found:
    """What has been examined so far. Of reports it keeps two, whatever the number of checkpoints.

    Attributes:
        snapshots: by index of task.
        reports: of the newest, as far as can be told before all are known, and of the newest of
            those in which most rules found something to read.
        model: the name of one that was read, and its parameters' shapes by name.
        differ: what two of them differ in, where they are not of one model.
    """

    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    reports: dict[int, Report] = field(default_factory=dict)
    model: tuple[str, dict[str, tuple[int, ...]]] | None = None
    differ: str = ""

    def add(self, index: int, one: Examined) -> None:
        """Takes in one checkpoint."""
        self.snapshots[index] = one.snapshot
        if one.report is None:
            return
        self._keep({index: one.report})
        assert one.report.profile is not None and one.report.profile.stored is not None
        self._compare((one.snapshot.name, one.report.profile.stored.shapes))

    def merge(self, other: Found) -> None:
        """Takes in what another process has examined."""
        self.snapshots |= other.snapshots
        self._keep(other.reports)
        if other.model is not None:
            self._compare(other.model)
        self.differ = self.differ or other.differ

    def _keep(self, reports: Mapping[int, Report]) -> None:
        known = {**self.reports, **reports}
        newest = max(known, key=self._time)
        fullest = max(known, key=lambda at: (-len(self.snapshots[at].unchecked), self._time(at)))
        self.reports = {index: known[index] for index in {newest, fullest}}

    def _time(self, index: int) -> tuple[int, int]:
        step = self.snapshots[index].step
        return -1 if step is None else step, index

    def _compare(self, model: tuple[str, dict[str, tuple[int, ...]]]) -> None:
        if self.model is None:
            self.model = model
        elif not self.differ and (what := _difference(self.model, model)):
            self.differ = what


def _difference(
    one: tuple[str, dict[str, tuple[int, ...]]], other: tuple[str, dict[str, tuple[int, ...]]]
) -> str:
    """The first that two models differ in, in a sentence; empty where they are alike."""
    (one_name, shapes), (other_name, others) = one, other
    for name in dict.fromkeys([*shapes, *others]):
        if name not in others:
            what = f"only the former has {name:.200}"
        elif name not in shapes:
            what = f"only the latter has {name:.200}"
        elif shapes[name] != others[name]:
            what = f"{name:.200} is {list(shapes[name])} in the former, {list(others[name])} in "
            what += "the latter"
        else:
            continue
        return (
            f"{one_name} and {other_name} are not of one model: {what}; "
            "scan the checkpoints of each model by themselves."
        )
    return ""
