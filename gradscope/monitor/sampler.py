"""Takes the samples of a training: when, what is worn meanwhile, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.monitor.clock import Clock
from gradscope.monitor.eager import Eager, compiler_in_use
from gradscope.monitor.finding import Finder, FoundSite
from gradscope.monitor.gauges import Gauges
from gradscope.monitor.hooks import Hooks
from gradscope.monitor.in_graph import InGraph, measurable
from gradscope.monitor.optimizers import Updates
from gradscope.monitor.ranks import Apart, Ranks
from gradscope.monitor.readings import LOSSES, Readings
from gradscope.monitor.receiver import Receiver
from gradscope.monitor.schedule import Schedule
from gradscope.training import Layout, WatchedParameter

__all__ = ["Sampler"]

# Of so many late samples the cost is the median.
_COSTS = 9

# Losses that no sample takes along are passed on as often as this.
_SECONDS = 1.0

# Whether the model has other parts than before is asked at every so many-th sample.
_LOOKS = 32


class Sampler:
    """One training under observation.

    Args:
        model: without wrappers.
        optimizers: of it.
        receiver: who is told.
        schedule: which steps are sampled.
        clock: takes the time spent.
        updates, exact, scaler: as of ``Monitor``.
        in_graph: whether sites are measured inside compiled graphs.

    Attributes:
        steps: how many the training has taken.
        skipped: how many the optimizer did not take.
        layout: which sites and parameters are watched; None before the end of the first step.
        ranks: the processes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        receiver: Receiver,
        schedule: Schedule,
        clock: Clock,
        *,
        updates: bool,
        exact: bool,
        scaler: Any,
        in_graph: bool = False,
        midway: bool = False,
    ) -> None:
        self._model, self._optimizers, self._receiver = model, optimizers, receiver
        self._schedule, self._clock = schedule, clock
        self._want_updates, self._exact, self._scaler = updates, exact, scaler
        self._device = _device_of(model)
        self.steps = self.skipped = 0
        self.layout: Layout | None = None
        self.ranks = Ranks()
        if not self.ranks.undecided:
            self._begin_at(receiver.begins())
        self._eager, self._in_graph = Eager(), in_graph
        self._graph: InGraph | None = None
        self._finder: Finder | None = None
        self._hooks: Hooks | None = None
        self._gauges: Gauges | None = None
        self._updates: Updates | None = None
        self._readings: Readings | None = None
        self._first_loss: Tensor | float | None = None
        self._direct: npt.NDArray[np.float32] | None = None
        self._count = self._passed = self._samples = self._modules = 0
        self._budgeted = 0.0
        self._changed = self._sampling = False
        self._midway = midway
        self._costs: list[float] = []
        self._longer: list[float] = []
        self._started = self._last_end = self._last_passed = perf_counter()
        self._released = False

    def begin(self) -> None:
        """With the step that comes."""
        self._begin_sampling(perf_counter())

    def step(self, loss: Tensor | float | None, start: float) -> None:
        """After a step of the training; ``start`` is when this was called."""
        updates, readings = self._updates, self._readings
        assert updates is not None
        if self._direct is not None and type(loss) is Tensor and loss.is_cpu and not loss.ndim:
            # On the host, where a value is there as soon as its tensor is.
            self._direct[self._count] = loss.item()
            self._count += 1
        else:
            self._note_loss(loss)
        if not updates.steps and self._optimizers:
            self.skipped += 1
        if self._sampling:
            # First: what has been spent may put it off.
            self._schedule.sampled(self.steps)
        if readings is not None and readings.pending is not None:
            self._pass_on(wait=self._sampling)
            self._budgeted += perf_counter() - start
        if self._sampling:
            self._end_sampling(loss, start)
        else:
            self._schedule.durations.append(start - self._last_end)
        if self._released:
            # By whoever was handed a sample.
            return
        self.steps += 1
        if self._count == LOSSES:
            self._pass_rest_of_losses()
        elif start - self._last_passed > _SECONDS:
            self._pass_some_losses()
        again, self._sampling = self._sampling, self.steps == self._schedule.next
        if again and not self._sampling:
            self._take_off()
        if self._sampling:
            self._begin_sampling(start)
        else:
            updates.steps = 0
        self._last_end = perf_counter()

    def finish(self) -> None:
        """Passes on what has been measured."""
        self._take_off()
        if self._readings is not None:
            self.ranks.hurry()
            try:
                while self._readings.pending is not None:
                    self._pass_on(wait=True)
            except Apart:
                # Other processes have ended otherwise.
                losses = self._readings.own_losses
                self._receiver.takes_losses(self._readings.own_step + 1 - len(losses), losses)
            self._pass_rest_of_losses(last=True)

    def let_go(self) -> None:
        """Takes everything off the model and its optimizers, whatever state it is in."""
        self._released = True
        finder, updates, graph = self._finder, self._updates, self._graph
        for release in (
            self._take_off,
            self._eager.take_off,
            graph.take_off if graph is not None else None,
            partial(finder.finish, None) if finder is not None else None,
            updates.close if updates is not None else None,
            self.ranks.leave,
        ):
            if release is not None:
                with suppress(Exception):
                    release()
        self._finder = self._hooks = self._graph = self._gauges = None
        self._readings = self._updates = self._direct = None

    # --- A sampled step -----------------------------------------------------------------------

    def _begin_sampling(self, start: float) -> None:
        self._sampling = True
        # What this call has taken so far counts for the sample before.
        self._began = self._clock.seconds + perf_counter() - start
        if self._updates is None or self._changed:
            self._take_off()
            self._look()
            return
        assert self._gauges is not None
        self._gauges.clear()
        self._updates.begin()
        if self._graph is not None:
            self._graph.clear()
        elif self._hooks is not None:
            # What the step before has worn is worn on.
            self._eager.put_on()
            self._hooks.put_on()

    def _end_sampling(self, loss: Any, start: float) -> None:
        if self._finder is not None:
            self._take_off()
            finder, self._finder = self._finder, None
            self._lay_out(finder.finish(loss), finder)
            if self._midway:
                # What ran before the monitor was there is seen in the next step.
                self._midway, self._changed = False, True
                self._schedule.next = self.steps + 1
        elif self._readings is not None and self._updates is not None:
            self._updates.read_rest()
            if self._graph is not None:
                self._graph.read()
            seconds = self._schedule.step_seconds
            cost = median(self._costs) if self._costs else 0.0
            budget = [self._budgeted, start - self._started, cost, seconds]
            rest = [_learning_rate(self._optimizers), seconds, *budget, self._has_changed()]
            self._readings.collect(self.steps, (self._passed, self._count), rest)
            self._count = self._passed = 0
            self._last_passed = start
            self._samples += 1
            if not self._readings.late:
                self._pass_on(wait=True)
        spent = self._clock.seconds + perf_counter() - start - self._began
        seconds = self._schedule.step_seconds
        otherwise = self._graph is None and compiler_in_use()
        if seconds == seconds and (otherwise or self._device.type != "cpu"):
            # Other kernels, or some that the host does not wait for: the step itself tells, and
            # the median of several where one has waited for something else.
            seen = None if self._hooks is None else self._hooks.first_seen
            longer = start - (seen or self._last_end) - seconds
            self._longer = [*self._longer[1 - _COSTS :], longer]
            spent = max(spent, median(self._longer))
        if self._schedule.is_start(self.steps):
            # What is sampled anyway is not held against later samples.
            self._budgeted, self._started = 0.0, perf_counter()
        else:
            self._budgeted += spent
        self._costs = [*self._costs[1 - _COSTS :], spent]

    def _take_off(self) -> None:
        """Takes off what a sampled step wears."""
        if self._hooks is not None:
            self._hooks.take_off()
        if self._updates is not None:
            self._updates.end()
        self._eager.take_off()

    def _note_loss(self, loss: Tensor | float | None) -> None:
        if self._readings is None:
            self._first_loss = loss.detach().clone() if isinstance(loss, Tensor) else loss
            return
        self._readings.put(self._count, loss)
        self._count += 1

    def _failed(self, error: Exception) -> None:
        self._receiver.failed(error)

    # --- What is watched ----------------------------------------------------------------------

    def _has_changed(self) -> bool:
        """Whether the model has other parts than when it was looked at; asked now and then."""
        return not (self._samples + 1) % _LOOKS and self._modules != _parts(self._model)

    def _look(self) -> None:
        """Has the step that comes show where the model's sites are."""
        if self._updates is not None:
            self._updates.close()
        if self._graph is not None:
            self._graph.take_off()
        if any(True for _ in self._model.parameters()):
            self._eager.put_on()
        self._modules, self._changed = _parts(self._model), False
        self._hooks = self._graph = None
        self._updates = Updates(
            {name: each for name, each in self._model.named_parameters() if not each.is_complex()},
            self._optimizers,
            updates=self._want_updates,
            exact=self._exact,
            clock=self._clock,
            scaler=self._scaler,
            failed=self._failed,
        )
        self._finder = Finder(self._model)
        self._finder.start()

    def _lay_out(self, found: Sequence[FoundSite], finder: Finder) -> None:
        """Lays out the memory for the sites that were found."""
        updates = self._updates
        assert updates is not None
        # It may have been built on the meta device.
        self._device = _device_of(self._model)
        if self.ranks.undecided:
            self.ranks.meet(self._receiver.begins)
            self._begin_at(self.ranks.first_step)
            self._schedule.sampled(self.steps)
            if self.ranks.warning:
                self._receiver.warns(self.ranks.warning)
        if self._in_graph:
            found, left = measurable(found)
            if left:
                self._receiver.warns(left)
        watched = [each for each in found if each.record.role == "activation"]
        if len(watched) < 2:
            watched = [each for each in found if each.record.role in ("activation", "layer")]
        watched = self.ranks.pooled(watched, self._model)
        self._gauges = Gauges(watched, exact=self._exact)
        if self._in_graph:
            self._graph = InGraph(self._gauges.each, self._device, self._receiver.warns)
            self._graph.put_on()
        else:
            self._hooks = Hooks(self._gauges.each, self._clock, self._failed)
        layout = Layout(
            tuple(each.record for each in watched),
            tuple(
                WatchedParameter(
                    name, tuple(each.shape), each.requires_grad, finder.uses(name, each)
                )
                for name, each in zip(updates.names, updates.parameters, strict=True)
            ),
        )
        joined = self.ranks.join(layout, self._gauges, updates.parameters)
        first = self._readings is None
        if not first:
            self._pass_rest_of_losses(until=self.steps + 1)
        self._readings = Readings(joined, self._gauges, updates, self._device, self.ranks)
        self._direct = self._readings.direct
        self.layout = joined.layout
        self._receiver.lays_out(joined.layout)
        if first:
            self._note_loss(self._first_loss)
            self._first_loss = None

    def _begin_at(self, step: int) -> None:
        self.steps += step
        self._schedule.begin_at(self.steps)

    # --- What arrives -------------------------------------------------------------------------

    def _pass_on(self, *, wait: bool) -> None:
        assert self._readings is not None
        sampled = self._readings.finished(wait=wait)
        if sampled is not None:
            *budget, changed = self._readings.agreed
            self._schedule.spent(sampled.step, *budget)
            self._changed = self._changed or changed > 0
            self._receiver.takes_losses(sampled.step + 1 - len(sampled.losses), sampled.losses)
            self._receiver.takes(sampled)

    def pass_losses(self) -> None:
        """Passes on the losses so far; of several processes only samples do, all at once."""
        if self.ranks.processes == 1 and self._readings is not None:
            while self._readings.pending is not None:
                self._pass_on(wait=True)
            self._pass_rest_of_losses()

    def _pass_rest_of_losses(self, until: int | None = None, *, last: bool = False) -> None:
        """Passes on the losses up to a step, by default all; and makes room for others."""
        if self._readings is not None and self._count > self._passed:
            losses = self._readings.losses(self._passed, self._count)
            first = (self.steps if until is None else until) - len(losses)
            if last:
                given = self._readings.given[self._passed : self._count]
                losses = self.ranks.last_losses(self.steps, losses, given)
            self._receiver.takes_losses(first, losses)
            self._readings.given[:] = True
        self._count = self._passed = 0

    def _pass_some_losses(self) -> None:
        """Once a second, so that a run that is killed has lost no more than that."""
        if self._readings is None or self._readings.pending is not None or self.ranks.processes > 1:
            return
        found = self._readings.arrived(self._passed, self._count)
        if found is not None:
            first = self.steps - self._count + self._passed
            self._passed += len(found)
            self._last_passed = self._last_end
            self._receiver.takes_losses(first, found)


def _device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lies."""
    first = next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def _parts(model: nn.Module) -> int:
    return sum(1 for _ in model.modules())


def _learning_rate(optimizers: Sequence[Optimizer]) -> float:
    """Of the first parameter group; NaN where it lies on a device, which nobody waits for."""
    rate = optimizers[0].param_groups[0].get("lr", math.nan) if optimizers else math.nan
    return math.nan if isinstance(rate, Tensor) and rate.device.type != "cpu" else float(rate)
