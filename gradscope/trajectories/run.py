"""Scans the checkpoints of one run.

The report is that of the newest checkpoint, which is the state of the run now. To it comes what the
others tell: a snapshot of each (``Profile.trajectory``), and in the message of each finding when it
began.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gradscope.checkpoints import name_order
from gradscope.config import Settings
from gradscope.configured import rules_to_run
from gradscope.errors import CheckpointError
from gradscope.records import Finding, Report, Skipped
from gradscope.trajectories.ranks import Ranks
from gradscope.trajectories.snapshots import Found, Task, examined, in_order, unread
from gradscope.trajectories.workers import Died, processors, spread
from gradscope.trajectory import History, Snapshot, histories, places
from gradscope.verify import Progress

__all__ = ["help_scan", "scan_checkpoints"]

_START_SECONDS = 4.0
"""What another process costs: importing torch takes it about three seconds, more beside others."""


def scan_checkpoints(
    paths: Sequence[str | Path],
    *,
    name: str | None = None,
    trust_pickle: bool = False,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    settings: Settings | None = None,
    processes: int | None = None,
    ranks: Ranks | None = None,
    progress: Progress | None = None,
) -> Report:
    """Diagnoses the checkpoints of one run, without the model's code; nothing is run.

    Args:
        paths: of files, or of folders that hold one checkpoint each.
        name: of all of them, for the report.
        trust_pickle: whether code that a pickle in them names may run.
        select, ignore, settings: which rules run, and how; as of :func:`gradscope.diagnose`.
        processes: how many of this machine read them; as many as make it faster by default.
        ranks: the processes of torchrun, the others of which are in :func:`help_scan`.
        progress: is told how far it is.

    Returns:
        The report of the newest checkpoint, with a snapshot of each in ``profile.trajectory``. What
        it does not tell, as without an optimizer's moments, comes from the newest that does.
        Checkpoints that cannot be read are skipped; their snapshots say why.

    Raises:
        CheckpointError: none can be read, or they are not of one model.
        UsageError: ``select``, ``ignore`` or ``settings`` name a rule or limit that there is not.
    """
    settings = settings or Settings()
    codes = tuple(entry.rule.code for entry in rules_to_run(settings, select, ignore))
    named = _named(paths)
    tasks = tuple(
        Task(path, named[path], trust_pickle, codes, settings)
        for path in sorted(named, key=name_order)
    )
    found = Found()
    if ranks is None:
        _read(dict(enumerate(tasks)), found, processes, processors(), progress)
    else:
        with ranks.joined():
            ranks.told(tasks)
            _read(_share(tasks, ranks), found, processes, _processors(ranks), progress)
            for other in ranks.gathered(found)[1:]:
                found.merge(other)
    if found.differ:
        raise CheckpointError(found.differ)
    return _report(name or f"{paths[0]} and {len(paths) - 1} more", tasks, found)


def help_scan(ranks: Ranks) -> None:
    """Reads this process's share of what rank 0 scans, and hands it over."""
    with ranks.joined():
        tasks: tuple[Task, ...] = ranks.told(()) or ()
        found = Found()
        if tasks:
            _read(_share(tasks, ranks), found, None, _processors(ranks), None)
            ranks.gathered(found)


def _share(tasks: Sequence[Task], ranks: Ranks) -> dict[int, Task]:
    return dict(list(enumerate(tasks))[ranks.rank :: ranks.world])


def _processors(ranks: Ranks) -> int:
    return max(1, processors() // ranks.local_world)


def _named(paths: Sequence[str | Path]) -> dict[Path, str]:
    """Names for a report, from the folder that holds all; links to another of them are left out."""
    given = list(dict.fromkeys(map(Path, paths)))
    there = {path.absolute() for path in given}
    own = [path for path in given if not path.is_symlink() or path.resolve() not in there - {path}]
    folder = os.path.commonpath([path.absolute().parent for path in own])
    return {path: os.path.relpath(path.absolute(), folder) for path in own}


def _read(
    tasks: Mapping[int, Task],
    found: Found,
    processes: int | None,
    most: int,
    progress: Progress | None,
) -> None:
    """Examines in this process until it is known that others would be done sooner, then in them.

    It ends early where two are not of one model.
    """
    waiting = deque(sorted(tasks, reverse=True))
    seconds: list[float] = []

    def tell(within: float = 0.0) -> None:
        if progress is not None:
            done = len(tasks) - len(waiting)
            progress(f"reading {len(tasks)} checkpoints", (done + within) / max(1, len(tasks)))

    def useful() -> int:
        if processes is not None:
            return min(processes, len(waiting))
        # The first takes longer: it loads what all need.
        each = min(seconds, default=0.0)
        return min(most, len(waiting), int(each * len(waiting) / _START_SECONDS))

    def read_here() -> None:
        index, begin = waiting[0], time.perf_counter()
        one = examined(tasks[index], lambda _, share: tell(share))
        if one.report is not None:
            seconds.append(time.perf_counter() - begin)
        waiting.popleft()
        found.add(index, one)
        tell()

    def read_elsewhere(indices: Sequence[int], crew: int) -> list[int]:
        """Returns those whose processes died of them, perhaps of what was in memory beside."""
        died = []
        for at, one in spread(examined, [tasks[index] for index in indices], crew):
            index = indices[at]
            if isinstance(one, Died):
                died.append(index)
                if crew > 1:
                    continue
                one = unread(tasks[index], _died(one))
            waiting.remove(index)
            found.add(index, one)
            tell()
            if found.differ:
                break
        return died

    while waiting and not found.differ:
        if (crew := useful()) < 2:
            read_here()
        else:
            died = read_elsewhere(list(waiting), crew)
            if died and not found.differ:
                read_elsewhere(died, 1)
            # What is left could not even be begun elsewhere.
            most = 1


def _died(end: Died) -> str:
    how = f"signal {-end.status}" if end.status < 0 else f"exit status {end.status}"
    return (
        f"The process that read it ended ({how}), as happens when memory runs out; scan it by "
        "itself, with more memory."
    )


def _report(name: str, tasks: Sequence[Task], found: Found) -> Report:
    order = in_order(tasks, found.snapshots)
    snapshots = tuple(found.snapshots[index] for index in order)
    left = [each for each in snapshots if each.unread]
    read = [index for index in order if not found.snapshots[index].unread]
    if not read:
        others = f" None of {len(left)} checkpoints could be read." if len(left) > 1 else ""
        raise CheckpointError(f"{left[0].unread}{others}")
    newest = read[-1]
    fullest = max(read, key=lambda at: (-len(found.snapshots[at].unchecked), order.index(at)))
    report, other = (_kept(index, tasks, found) for index in (newest, fullest))
    findings, skipped = list(report.findings), list(report.skipped)
    untold = set(found.snapshots[newest].unchecked) - set(found.snapshots[fullest].unchecked)
    if untold:
        findings += [each for each in other.findings if each.code in untold]
        skipped = [each for each in skipped if each.what not in untold]
        newer, older = tasks[newest].name, tasks[fullest].name
        reason = f"{newer} does not tell; {older} does, from which they were read"
        skipped.append(Skipped(", ".join(sorted(untold)), reason))
    told = {each.code: each for each in histories(snapshots)}
    assert report.profile is not None
    return replace(
        report,
        target=replace(report.target, name=name, kind=f"{len(read)} checkpoints of one run"),
        profile=replace(report.profile, trajectory=snapshots),
        findings=tuple(_dated(each, told[each.code], snapshots) for each in findings),
        skipped=(*skipped, *(Skipped(each.name, each.unread) for each in left)),
    )


def _kept(index: int, tasks: Sequence[Task], found: Found) -> Report:
    """The report of one checkpoint; of another than was expected to be needed it is made again."""
    report = found.reports.get(index) or examined(tasks[index]).report
    if report is None:
        raise CheckpointError(f"{tasks[index].path} was changed while it was read; scan it again.")
    return report


def _dated(finding: Finding, history: History, snapshots: Sequence[Snapshot]) -> Finding:
    """The finding, with a sentence that says when it began."""
    since = "Since" if history.unbroken else "First at"
    many = "all" if history.faulty == history.telling else f"{history.faulty} of"
    when = f"{since} {places(snapshots)[history.first]}, in {many} {history.telling} checkpoints"
    return replace(finding, message=f"{finding.message.rstrip('.')}. {when}.")
