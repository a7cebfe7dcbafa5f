"""The processes that train one model, as far as the monitor has to do with them.

Each accumulates for itself; a sampled step costs one packed sum over all. Which step is the next
sample follows from that sum, so that all processes choose the same one.

The sums go over a gloo group of their own, whatever the training uses: they are made on the host,
they keep no stream waiting, and one that fails raises here and ends the monitor, where a failed
collective of NCCL's would end the process.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor, nn

from gradscope.errors import GradscopeError
from gradscope.monitor.finding import FoundSite
from gradscope.monitor.gauges import Gauges
from gradscope.profile.exchange import merged
from gradscope.profile.sharding import replicas
from gradscope.training import Layout

__all__ = ["Apart", "Joined", "Ranks"]

Array = np.ndarray[Any, Any]

# How often the store of the processes is asked for what another one is to put there.
_LOOK_AFTER = 0.002
_LOOK_EVERY = 0.1

_meetings = 0


class Apart(GradscopeError):
    """The processes have lost each other."""


@dataclass(frozen=True)
class Joined:
    """Where the numbers of this process stand among those of all.

    Attributes:
        layout: of all.
        sites, units, parameters: the place of each that is here.
        unit_count: of all.
        site_copies, unit_copies, copies: of each site, unit and parameter here, how many processes
            count the same observations, the same ones of this unit, and hold the same elements.
    """

    layout: Layout
    sites: Array
    units: Array
    parameters: Array
    unit_count: int
    site_copies: Array
    unit_copies: Array
    copies: Array


class Ranks:
    """All processes, or this one alone.

    Attributes:
        processes: how many take part.
        first: whether this one writes.
        first_step: number of the training's first step, as the one that writes has it.
        undecided: whether it is still to be found out who takes part.
        warning: what is wrong with how they meet.
        meeting: seconds that the other processes may take to end their first step after this one.
        patience: seconds that they may take to add up a sum.
        parting: likewise when this one closes.
    """

    meeting, patience, parting = 20.0, 600.0, 3.0

    def __init__(self) -> None:
        self.processes, self.first, self.first_step, self.warning = 1, True, 0, ""
        self._rank = 0
        self._group: Any = None
        self._work: Any = None
        self._store: Any = None
        self.undecided = _world() > 1
        if dist.is_available() and not dist.is_initialized():
            # Under torchrun the processes may find each other after this.
            self.undecided = os.environ.get("WORLD_SIZE", "1") != "1"

    # --- At the end of the first step ---------------------------------------------------------

    def meet(self, begins: Callable[[], int]) -> None:
        """Finds out whether all processes have a monitor, and waits for them, not for ever.

        Each asks at the end of its first step. ``begins`` tells the number of that; the process
        that writes asks it.
        """
        self.undecided = False
        if _world() == 1:
            self.first_step = begins()
            return
        self._rank, processes = dist.get_rank(), _world()
        store = dist.distributed_c10d._get_default_store()
        self._store = dist.distributed_c10d.PrefixStore(f"gradscope/monitor/{_next()}", store)
        self._store.set(f"here/{self._rank}", "1")
        if self._rank == 0:
            self.first_step = begins()
            self._store.set("first", str(self.first_step))
        if not self._agree("meet", True, self.meeting):
            self._stay_alone(
                begins,
                "only some of the processes have a monitor that is told of steps, and each of these"
                " sees its own part of the training alone; make one on every process, and call its "
                "step() on each",
            )
            return
        group, refused = None, ""
        try:
            group = dist.new_group(timeout=timedelta(seconds=self.patience), backend="gloo")
        except Exception as error:
            refused = str(error)
        if not self._agree("group", group is not None, self.meeting):
            self._stay_alone(
                begins,
                "the processes cannot add up what they measure, and each sees its own part of the "
                f"training alone: gloo reaches not all of them{refused and ': '}{refused}",
            )
            return
        self._group, self.processes, self.first = group, processes, self._rank == 0
        self.first_step = int(self._store.get("first"))

    def _agree(self, what: str, yes: bool, seconds: float) -> bool:
        """Whether all processes say yes within some seconds; all get the same answer."""
        decided, store = f"{what}/decided", self._store
        if yes:
            store.add(what, 1)
        else:
            store.compare_set(decided, "", "no")

        def known() -> bool:
            if self._rank == 0 and store.add(what, 0) == _world():
                store.compare_set(decided, "", "yes")
            return bool(store.check([decided]))

        # The first process decides; the others do only if it is not there.
        if not _wait_until(known, seconds if self._rank == 0 else 1.5 * seconds):
            store.compare_set(decided, "", "no")
        return bool(store.get(decided) == b"yes")

    def _stay_alone(self, begins: Callable[[], int], warning: str) -> None:
        self.warning = warning
        self.first = not any(self._store.check([f"here/{rank}"]) for rank in range(self._rank))
        if self.first and self._rank:
            self.first_step = begins()

    def pooled(self, found: Sequence[FoundSite], model: nn.Module) -> list[FoundSite]:
        """What any process has found in parts that this one has, too; each has to call it.

        An expert that a first batch does not reach here may be reached by the next one.
        """
        if self.processes == 1:
            return list(found)
        names = [site.record.name for site in found]
        told = self._gathered(names)
        if all(each == names for each in told):
            return list(found)
        modules = dict(model.named_modules())
        places = {id(module): name for name, module in modules.items()}
        mine = [
            (replace(site, module=nn.Module()), places[id(site.module)], type(site.module).__name__)
            for site in found
        ]
        known = {site.record.name: site for site in found}
        for lent in self._gathered(mine):
            for site, place, kind in lent:
                here = modules.get(place)
                if type(here).__name__ == kind:
                    known.setdefault(site.record.name, replace(site, module=here))
        return [known[name] for name in merged(told) if name in known]

    def join(self, layout: Layout, gauges: Gauges, parameters: list[nn.Parameter]) -> Joined:
        """Agrees on one layout with the other processes; each has to call it."""
        # Under tensor parallelism so many processes see the same samples.
        shards = [gauge.site.shard for gauge in gauges.each]
        alike = max((each.parts for each in shards if each is not None and each.axis), default=1)
        every = [layout]
        if self.processes > 1:
            # Most often all have the same: layouts themselves are long.
            told = self._gathered((hashlib.sha256(repr(layout).encode()).digest(), alike))
            alike = max(each for _, each in told)
            if len({digest for digest, _ in told}) > 1:
                every = _told_apart(self._gathered(layout))
        mine = every[self._rank if len(every) > 1 else 0]
        sites = {site.name: site for each in reversed(every) for site in each.sites}
        watched = {each.name: each for one in reversed(every) for each in one.parameters}
        names = merged([[site.name for site in each.sites] for each in every])
        order = merged([[each.name for each in one.parameters] for one in every])
        union = Layout(tuple(sites[name] for name in names), tuple(watched[name] for name in order))
        counts = [site.counted_units for site in union.sites]
        starts = np.cumsum([0, *counts])
        place = {name: index for index, name in enumerate(names)}
        numbers = {name: index for index, name in enumerate(order)}
        units: list[int] = []
        site_copies, unit_copies = [], []
        for site, gauge, shard in zip(mine.sites, gauges.each, shards, strict=True):
            first, parts = int(starts[place[site.name]]), 1 if shard is None else shard.parts
            if shard is not None and shard.axis == site.unit_axis:
                first += gauge.units * shard.part if gauge.units < site.counted_units else 0
            units += range(first, first + gauge.units)
            held = shard.axis if shard is not None else 0
            site_copies.append(alike / parts if held and held != site.unit_axis else alike)
            unit_copies += [alike / parts if held else alike] * gauge.units
        return Joined(
            union,
            np.array([place[site.name] for site in mine.sites], dtype=np.int64),
            np.array(units, dtype=np.int64),
            np.array([numbers[each.name] for each in mine.parameters], dtype=np.int64),
            sum(counts),
            np.array(site_copies, dtype=np.float64),
            np.array(unit_copies, dtype=np.float64),
            np.array([float(replicas(each, self.processes)) for each in parameters]),
        )

    def _gathered(self, here: Any) -> list[Any]:
        found: list[Any] = [None] * self.processes
        dist.all_gather_object(found, here, group=self._group)
        return found

    # --- Sampled steps ------------------------------------------------------------------------

    def add_up(self, sums: Tensor) -> None:
        """Begins to add up float64 sums in place, over all processes; one at a time."""
        if self.processes > 1:
            self._work = dist.all_reduce(sums, group=self._group, async_op=True)

    def wait(self) -> None:
        """Until the sums are added up.

        Raises:
            Apart: they will not be: a process is gone, or has not come to this step in time.
        """
        if self._work is None:
            return
        try:
            self._work.wait(timedelta(seconds=self.patience))
        except RuntimeError as error:
            raise Apart(
                "another process is gone, or did not come to the same step within "
                f"{self.patience:g} s"
            ) from error
        self._work = None

    # --- Now and then -------------------------------------------------------------------------

    def hurry(self) -> None:
        """This process is about to close, and the others may be gone."""
        self.patience = self.parting

    def last_losses(self, step: int, losses: Array, given: Array) -> Array:
        """The mean of what the processes have left when they close, for the one that writes.

        Args:
            step: after the last one.
            losses: of so many last steps.
            given: which of them are numbers that the monitor was given.
        """
        if self.processes == 1 or not len(losses):
            return losses
        mine = np.stack([np.where(given, losses, 0), given]).astype(np.float64)
        total = mine
        # The store may be gone with the process that keeps it.
        with suppress(Exception):
            self._store.set(f"last/{self._rank}", step.to_bytes(8, "little") + mine.tobytes())
            if self.first:
                told = self._told("last", self.parting)
                same = [each[8:] for each in told if int.from_bytes(each[:8], "little") == step]
                arrays = [np.frombuffer(each).reshape(2, -1) for each in same]
                total = np.sum([each for each in arrays if each.shape == mine.shape], axis=0)
        with np.errstate(all="ignore"):
            mean: Array = total[0] / total[1]
        return mean.astype(np.float32)

    def _told(self, what: str, seconds: float) -> list[bytes]:
        """What the processes have put into the store; of those that did within some seconds."""
        keys = [f"{what}/{rank}" for rank in range(self.processes)]
        _wait_until(lambda: self._store.check(keys), seconds)
        return [self._store.get(key) for key in keys if self._store.check([key])]

    def leave(self) -> None:
        """Takes part no longer; the others notice at their next sum."""
        group, self._group = self._group, None
        work, self._work = self._work, None
        if group is None:
            return
        # Not if the user has destroyed all groups.
        with suppress(Exception):
            dist.destroy_process_group(group)
        # The last reference to either closes the connections, and ends the waiting of others. It
        # waits for what is under way: up to ``patience`` where another process does not answer.
        if work is not None and not work.is_completed():
            threading.Thread(target=_await, args=(group, work), daemon=True).start()


def _await(group: object, work: Any) -> None:
    with suppress(Exception):
        work.wait()


def _world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _next() -> int:
    """Counts the meetings: the n-th ones of all processes are the same."""
    global _meetings
    _meetings += 1
    return _meetings


def _told_apart(every: list[Layout]) -> list[Layout]:
    """The layouts with other names for what cannot be what another process calls by that name.

    The stages of a pipeline may each begin to count their layers at zero.
    """
    known: dict[str, object] = {}
    apart = []
    for rank, layout in enumerate(every):
        kinds: dict[str, object] = {site.name: (site.operator, site.units) for site in layout.sites}
        names = {
            name: f"{name} of process {rank}"
            for name, kind in kinds.items()
            if known.setdefault(name, kind) != kind
        }
        sites = [
            replace(
                site,
                name=names.get(site.name, site.name),
                joins=None if site.joins is None else names.get(site.joins, site.joins),
            )
            for site in layout.sites
        ]
        parameters = [
            each
            if known.setdefault(f"parameter {each.name}", each.shape) == each.shape
            else replace(each, name=f"{each.name} of process {rank}")
            for each in layout.parameters
        ]
        apart.append(Layout(tuple(sites), tuple(parameters)))
    return apart


def _wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Looks again and again, less and less often; no call blocks the store for other threads."""
    end, pause = time.monotonic() + seconds, _LOOK_AFTER
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LOOK_EVERY)
    return True
