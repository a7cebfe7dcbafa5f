"""From the slots of a sampled step to its row: to the host, over the processes, into numbers.

What the device holds crosses to the host in one copy, which nobody waits for on CUDA: it is read
when the next step ends. Over processes one packed sum is added up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.monitor.gauges import Gauges
from gradscope.monitor.optimizers import Updates
from gradscope.monitor.ranks import Apart, Joined, Ranks
from gradscope.monitor.sampled import Sampled
from gradscope.monitor.tallies import Tallies
from gradscope.profile.sharding import local
from gradscope.training import PARAMETER_MEASURES, SITE_MEASURES, STEP_MEASURES

__all__ = ["LOSSES", "Readings"]

LOSSES = 256
"""The losses of so many steps fit between two samples; of more, the first are passed on."""

Array = np.ndarray[Any, Any]

Sums = tuple[Array, ...]
"""What processes add up, in this order.

Of sites (6, sites): squares forward and backward, elements of both, observations of each unit,
those compared with bounds. Of units: whether any was positive, whether any was not, how often they
were saturated. Of parameters (4, parameters): squares, and whether they are known. The losses. Of
the step: the loss's scale, the learning rate, seconds, and what schedules agree on.
"""


@dataclass
class _Pending:
    """A step whose numbers are on their way.

    Attributes:
        step: its number.
        counts: of each site, what its numbers are of.
        known: bool (4, parameters).
        rest: of the step as a whole: learning rate, seconds, and what schedules agree on.
        losses: from which of those since the last sample up to which.
        given: which of these the monitor was given.
        copied: done when the copy to the host is; None where there is none to wait for.
        sums: ``Sums``, or all of them in one tensor, once it is being added up.
        shapes: of the parts of that.
    """

    step: int
    counts: _Counts
    known: Array
    rest: list[float]
    losses: tuple[int, int]
    given: Array
    copied: Any = None
    sums: Any = None
    shapes: Sequence[tuple[int, ...]] = ()


class _Counts:
    """What the numbers of each site are of; most steps have the same.

    Attributes:
        given: as of ``Gauge.counts``.
        factors: (2, sites), what norms are multiplied by.
        of_sites: (4, sites), elements forward and backward, observations, those compared.
        unseen: (2, sites), which norms were not measured; None for none. Likewise
            ``seen_units`` and ``compared_units``; None for all.
    """

    def __init__(self, given: list[tuple[float, ...]], owner: Array) -> None:
        self.given = given
        counts = np.array(given, np.float64).reshape(-1, 5).T
        self.factors = np.ones((2, counts.shape[1]))
        self.factors[1] = counts[2]
        self.of_sites = counts[[0, 1, 3, 4]]
        unseen, seen, compared = counts[:2] == 0, counts[3] > 0, counts[4] > 0
        self.unseen = unseen if unseen.any() else None
        self.seen_units = None if seen.all() else seen[owner]
        self.compared_units = None if compared.all() else compared[owner]


class Readings:
    """The memory of one layout of a model, and what becomes of it.

    Attributes:
        given: bool (LOSSES); at which steps since the last sample the monitor was given a loss.
        direct: float32 (LOSSES), these losses, where they lie on the host; else None.
        pending: the step whose numbers are on their way.
        scale: where the loss's scale is put.
        agreed: what the processes told each other with the last sample, a mean over them.
        own_step, own_losses: of the sample that is added up over processes, this one's losses.
    """

    def __init__(
        self,
        joined: Joined,
        gauges: Gauges,
        updates: Updates,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.layout, self._joined = joined.layout, joined
        self._gauges, self._updates, self._ranks = gauges, updates, ranks
        sizes = [gauges.size, updates.size, LOSSES, 1]
        self._memory = torch.zeros(sum(sizes), device=device, dtype=torch.float32)
        sites, parameters, losses, self.scale = self._memory.split(sizes)
        gauges.write_into(sites)
        updates.write_into(parameters, self.scale)
        self._cells = list(losses.unbind())
        self.direct = losses.numpy() if device.type == "cpu" else None
        self.given = np.ones(LOSSES, dtype=bool)
        self.scale.fill_(1.0)
        self._host = self._memory
        if device.type != "cpu":
            pinned = device.type == "cuda"
            self._host = torch.zeros_like(self._memory, device="cpu", pin_memory=pinned)
        self.pending: _Pending | None = None
        self._sent: tuple[slice, Any] | None = None
        self.agreed: Array = np.zeros(0)
        self.own_step, self.own_losses = 0, np.zeros(0, np.float32)
        self._tallies = Tallies(self.layout.sites)
        sites_here = np.arange(len(gauges.each))
        self._owner_here = np.repeat(sites_here, [gauge.units for gauge in gauges.each])
        self._counts = _Counts([], self._owner_here[:0])
        # Where nobody else takes part, everything stands where it is already.
        self._alone = ranks.processes == 1

    def put(self, place: int, loss: Tensor | float | None) -> None:
        """Keeps a loss; one that lies on a device is copied there, and nobody waits for it."""
        if isinstance(loss, Tensor):
            value = local(loss.detach())
            value = value if value.numel() == 1 else value.float().mean()
            if value.device.type == "cpu":
                self._cells[place].fill_(value.item())
            else:
                self._cells[place].copy_(value.reshape(()))
        else:
            self._cells[place].fill_(math.nan if loss is None else loss)
            self.given[place] = loss is not None

    @property
    def late(self) -> bool:
        """Whether they arrive only after the step."""
        return self._host is not self._memory or self._ranks.processes > 1

    def losses(self, first: int, stop: int) -> npt.NDArray[np.float32]:
        """Of these of the losses since the last sample, of this process, waited for."""
        self._sent = None
        return torch.stack(self._cells[first:stop]).cpu().numpy()

    def arrived(self, first: int, stop: int) -> npt.NDArray[np.float32] | None:
        """The same, as far as they are on the host; what is not is sent on its way."""
        begin = self._gauges.size + self._updates.size
        if self._host is self._memory:
            return self._host.numpy()[begin + first : begin + stop].copy()
        if self._sent is None:
            self._sent = self._copy(slice(begin + first, begin + stop))
            return None
        place, copied = self._sent
        if copied is not None and not copied.query():
            return None
        self._sent = None
        return self._host.numpy()[place].copy()

    def _copy(self, place: slice) -> tuple[slice, Any]:
        """Begins to copy a part of the memory to the host; and what tells when that is done."""
        self._host[place].copy_(self._memory[place], non_blocking=True)
        if not self._memory.is_cuda:
            getattr(torch, self._memory.device.type).synchronize()
            return place, None
        copied = torch.cuda.Event()
        copied.record()
        return place, copied

    # --- Out of the step ----------------------------------------------------------------------

    def collect(self, step: int, losses: tuple[int, int], rest: list[float]) -> None:
        """Sends the numbers of a step on their way; ``rest`` as in ``_Pending``."""
        counts = [gauge.counts for gauge in self._gauges.each]
        if counts != self._counts.given:
            self._counts = _Counts(counts, self._owner_here)
        given = self.given[slice(*losses)].copy()
        self.given[:] = True
        known = self._updates.known.copy()
        pending = _Pending(step, self._counts, known, rest, losses, given)
        if self._host is not self._memory:
            _, pending.copied = self._copy(slice(None))
            self._sent = None
        self.pending = pending
        if self._host is self._memory:
            # The memory is written to by the next step.
            self._begin_to_add(pending)

    def finished(self, *, wait: bool) -> Sampled | None:
        """The row of the step that was collected, once; None where there is none yet."""
        pending = self.pending
        if pending is None:
            return None
        if pending.sums is None:
            if pending.copied is not None:
                if self._alone and not wait and not pending.copied.query():
                    return None
                pending.copied.synchronize()
            self._begin_to_add(pending)
            # All processes read the sums at the end of the same step, whichever has them first.
            if not self._alone and not wait:
                return None
        self.pending = None
        return self._row(pending, self._added(pending))

    # --- Over the processes -------------------------------------------------------------------

    def _begin_to_add(self, pending: _Pending) -> None:
        """Makes sums of the numbers here; where there are other processes, has them added up."""
        found = self._found(pending)
        if self._alone:
            pending.sums = found
        else:
            flat = np.concatenate([np.asarray(part, np.float64).reshape(-1) for part in found])
            pending.shapes = [np.shape(part) for part in found]
            start = self._gauges.size + self._updates.size
            first, last = pending.losses
            self.own_losses = self._host.numpy()[start + first : start + last].copy()
            self.own_step = pending.step
            pending.sums = torch.from_numpy(flat)
            self._ranks.add_up(pending.sums)

    def _found(self, pending: _Pending) -> Sums:
        memory = self._host.numpy()
        gauges, counts = self._gauges, pending.counts
        count, start = len(gauges.each), gauges.size
        stop = start + self._updates.size
        norms = memory[: 2 * count].reshape(2, count)
        gradients = memory[start:stop].reshape(4, -1)
        self._widen(norms, counts, gradients[1], pending.known[1])
        squares = np.square(gradients, dtype=np.float64)
        # A slot that was not written to in this step holds what an earlier one has left there.
        if not pending.known.all():
            squares[~pending.known] = 0.0
        per_site = np.empty((6, count))
        np.multiply(norms, counts.factors, out=per_site[:2])
        np.square(per_site[:2], out=per_site[:2])
        if counts.unseen is not None:
            per_site[:2][counts.unseen] = 0.0
        per_site[2:] = counts.of_sites
        highs, lows, saturated = memory[2 * count : start].reshape(3, -1)
        positive, nonpositive = ~(highs <= 0), lows <= 0
        if counts.seen_units is not None:
            positive, nonpositive = positive & counts.seen_units, nonpositive & counts.seen_units
        if not self._tallies.any_bounded:
            saturated = saturated[:0]
        elif counts.compared_units is not None:
            saturated = np.where(counts.compared_units, saturated, 0.0)
        first, last = pending.losses
        known, losses = pending.known, memory[stop + first : stop + last]
        rest = np.array([memory[-1], *pending.rest])
        if self._alone:
            return per_site, positive, nonpositive, saturated, squares, known, losses, rest
        joined, layout = self._joined, self.layout
        units, parameters = joined.unit_count, len(layout.parameters)
        per_site[4:] /= joined.site_copies
        bounded = self._tallies.any_bounded
        # As many numbers on every process and in every step, whatever was seen or given.
        window = np.zeros((2, LOSSES))
        given = pending.given
        window[:, LOSSES - len(losses) :] = np.where(given, losses, 0.0), given
        # Whole numbers have the same sum in whichever order: all processes find the same step.
        rest[3:] = np.rint(rest[3:] * 1e6)
        return (
            _laid(per_site, joined.sites, len(layout.sites)),
            _laid(positive, joined.units, units),
            _laid(nonpositive, joined.units, units),
            _laid(saturated / joined.unit_copies, joined.units, units) if bounded else saturated,
            _laid(squares / joined.copies, joined.parameters, parameters),
            _laid(known, joined.parameters, parameters),
            window,
            np.array([*rest, pending.step]),
        )

    def _widen(self, norms: Array, counts: _Counts, gradients: Array, known: Array) -> None:
        """Has norms that float32 cannot hold the squares of computed in float64 from now on."""
        fine = (norms > 0) & (norms < np.inf)
        if not fine.all():
            seen = ~fine if counts.unseen is None else ~fine & ~counts.unseen
            for which, index in zip(*np.nonzero(seen), strict=True):
                self._gauges.each[index].types[which] = torch.float64
        fine = (gradients > 0) & (gradients < np.inf)
        if not fine.all():
            self._updates.tiny.update(np.flatnonzero(~fine & known).tolist())

    def _added(self, pending: _Pending) -> Sums:
        """The sums over all processes."""
        if self._alone:
            here: Sums = pending.sums
            return here
        self._ranks.wait()
        flat = pending.sums.numpy()
        sizes = [math.prod(shape) for shape in pending.shapes]
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        site, *others = (
            part.reshape(shape) for part, shape in zip(parts, pending.shapes, strict=True)
        )
        positive, nonpositive, saturated, squares, known, losses, rest = others
        rest = rest / self._ranks.processes
        if rest[-1] != pending.step:
            raise Apart("the processes count steps differently; call step() once a step on each")
        with np.errstate(all="ignore"):
            # Some processes may have no gradients, or no loss.
            squares = squares / (known / self._ranks.processes)
            losses = (losses[0] / losses[1])[LOSSES - pending.losses[1] :]
        return (
            site,
            positive > 0,
            nonpositive > 0,
            saturated,
            squares,
            known > 0,
            losses,
            np.array([*rest[:3], *rest[3:-1] / 1e6]),
        )

    # --- Into the row -------------------------------------------------------------------------

    def _row(self, pending: _Pending, sums: Sums) -> Sampled:
        site, positive, nonpositive, saturated, squares, known, losses, rest = sums
        layout = self.layout
        self.agreed = rest[3:]
        row = np.empty(layout.columns, np.float32)
        begin, end = len(STEP_MEASURES), layout.first_parameter
        with np.errstate(all="ignore"):
            norms = np.sqrt(squares)
            norms[norms != norms] = np.inf
            norms[~known] = np.nan
            # Where nothing was seen it is 0 / 0.
            rms = np.sqrt(site[:2] / site[2:4])
            rms[1] /= rest[0]
            unclear = rms != rms
            if unclear.any():
                rms[unclear & (site[2:4] > 0)] = np.inf
            table = row[begin:end].reshape(-1, len(SITE_MEASURES))
            table[:, :2] = rms.T
            self._tallies.add(site[4:], positive, nonpositive, saturated)
            table[:, 2:] = self._tallies.shares()
            row[end:].reshape(-1, len(PARAMETER_MEASURES))[:] = norms[1:].T
            used = _together(norms[1])
            row[:begin] = (
                losses[-1] if len(losses) else np.nan,
                _together(np.where(known[0], norms[0], norms[1])) if known[0].any() else used,
                used,
                *rest[1:3],
            )
        return Sampled(pending.step, row, layout, np.array(losses, np.float32))


def _laid(values: Array, places: Array, extent: int) -> Array:
    """The last axis of what is here, where it stands among that of all processes."""
    whole = np.zeros((*values.shape[:-1], extent))
    whole[..., places] = values
    return whole


def _together(norms: Array) -> float:
    """The norm of all that are known; NaN where none is."""
    known = norms[norms == norms]
    return math.sqrt(known @ known) if len(known) else math.nan
