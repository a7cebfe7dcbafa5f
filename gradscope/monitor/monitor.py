"""The monitor of a training: two lines in a loop that somebody else wrote."""

from __future__ import annotations

import atexit
import math
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.checked import one_line
from gradscope.config import Settings
from gradscope.monitor.alerts import Alerts
from gradscope.monitor.arguments import (
    Listeners,
    check,
    described,
    listeners,
    one_model,
    optimizers_in,
    roots,
)
from gradscope.monitor.clock import Clock
from gradscope.monitor.generation import generation
from gradscope.monitor.sampled import Sampled
from gradscope.monitor.sampler import Sampler
from gradscope.monitor.schedule import Schedule
from gradscope.records import Profile
from gradscope.store import RunWriter
from gradscope.training import Alert, Layout

if TYPE_CHECKING:
    from gradscope.monitor.automatic import Automatic

__all__ = ["Monitor"]


class Monitor:
    """Watches a training from inside, and never disturbs it.

        with gradscope.Monitor(model, optimizer) as monitor:
            for batch in loader:
                ...; loss.backward(); optimizer.step(); monitor.step(loss)

    The first steps are all sampled, then every hundredth; between samples nothing is on the model.
    An error inside the monitor ends it with one warning, and not the training.

    Attributes:
        info: what the run is.
        enabled: False after an internal error, and once closed.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        store: str | os.PathLike[str] | None = "run.gradscope",
        every: int = 100,
        dense: int = 20,
        overhead: float | None = 0.02,
        updates: bool = True,
        exact: bool = False,
        scaler: Any = None,
        settings: Settings | None = None,
        on_finding: Listeners = (),
        on_sample: Listeners = (),
        automatic: Automatic | None = None,
        strict: bool = False,
        compiled: str = "eager",
        first_step: int | None = None,
        midway: bool = False,
    ) -> None:
        """Begins with the next step of the training.

        Args:
            model: what is trained; several as ``{"generator": ..., "discriminator": ...}``.
            optimizer: or several; without one, gradients are read at the end of a step, and
                updates are not measured.
            store: file of the run, continued if it is there; None to keep nothing.
            every: steps between samples.
            dense: how many steps at the start are all sampled.
            overhead: share of the training's time that the monitor may take, for which it spaces
                its samples; None for any.
            updates: whether the norms of weights and of updates are measured.
            exact: whether large tensors are measured on all their elements; by default outputs of
                more than 2**20 elements on evenly spaced samples, and the updates of parameters of
                more than 2**13 on 2**12 elements (error of a norm about 1 %).
            scaler: the GradScaler, whose scale is undone in backward signals. That of gradients
                and updates is undone in any case.
            settings: limits of rules in place of the defaults.
            on_finding: called with each ``Alert`` that opens, closes or gets worse.
            on_sample: called with each ``Sampled``.
            automatic: remedies to be applied at the end of epochs.
            strict: whether errors inside the monitor are raised.
            compiled: how a model under ``torch.compile`` is watched. ``eager``: sampled steps run
                without compilation, in the time and memory that this takes, and differ in the last
                bits; all others are untouched. ``in-graph``: the first step runs without
                compilation, all others measure inside the compiled graph, those between samples
                too, at a cost that ``spent`` and ``overhead`` do not know of; calls of functions
                are not measured.
            first_step: number of the first step; by default 0, or after the last one in the store.
            midway: whether the first step has begun already, so that the second shows the sites.

        Raises:
            UsageError: an argument is not what it has to be.
        """
        self._model, self._optimizers = one_model(model), optimizers_in(optimizer)
        check(every, dense, overhead, compiled)
        self.enabled, self.strict = True, strict
        self._roots = roots(model)
        self.info = described(self._roots, self._optimizers, every)
        self._born, self._closed = generation(), False
        self._on_sample, self._on_finding = listeners(on_sample), listeners(on_finding)
        self._alerts = Alerts(self.info, settings)
        self._automatic = automatic
        self._store: RunWriter | None = None
        self._store_path, self._first_wanted = store, first_step
        self._clock = Clock()
        self._noted: Exception | None = None
        self._between: list[npt.NDArray[np.float32]] = []
        self._told = 0
        self._epoch = 0.0, 0
        """Sum of the losses of the epoch so far, and how many."""
        self._sampler: Sampler | None = None
        self._take_over()
        try:
            self._sampler = Sampler(
                self._model,
                self._optimizers,
                weakref.proxy(self),
                Schedule(every, dense, overhead),
                self._clock,
                updates=updates,
                exact=exact,
                scaler=scaler,
                in_graph=compiled == "in-graph",
                midway=midway,
            )
            # What is dropped without being closed leaves nothing on the model.
            weakref.finalize(self, self._sampler.let_go).atexit = False
            self._sampler.begin()
            if automatic is not None:
                automatic.attach(self._model, self._optimizers, self.record, self.profile)
        except Exception as error:
            self._fail(error)

    # --- What is used in a training -----------------------------------------------------------

    def step(self, loss: Tensor | float | None = None) -> None:
        """After each step of the optimizer, or of the last one where there are several.

        Args:
            loss: of the step, a scalar; it is read later, and nothing waits for it.
        """
        if torch.compiler.is_compiling():
            # Called in the midst of what is compiled, of which it can be no part.
            torch.compiler.disable(Monitor.step)(self, loss)
            return
        if not self.enabled or self._born != generation():
            return
        start = perf_counter()
        assert self._sampler is not None
        try:
            if self._noted is not None:
                raise self._noted
            self._sampler.step(loss, start)
            if self._automatic is not None:
                self._automatic.step()
        except Exception as error:
            self._fail(error)
        self._clock.seconds += perf_counter() - start

    def epoch(self, loss: float | None = None) -> None:
        """At the end of each epoch: where automatic remedies are applied, judged and undone.

        Args:
            loss: the epoch's mean training loss; by default the mean of what ``step`` was given.
        """
        if not self.enabled or self._born != generation():
            return
        assert self._sampler is not None
        try:
            self._sampler.pass_losses()
            (total, count), self._epoch = self._epoch, (0.0, 0)
            if loss is None:
                loss = total / count if count else math.nan
            self.record(self.steps - 1, "epoch", {"loss": float(loss)})
            if self._automatic is not None:
                self._automatic.epoch(self.steps, float(loss), self.alerts)
        except Exception as error:
            self._fail(error)

    def close(self, ended: str = "") -> None:
        """Takes everything off and writes the rest; what comes later does nothing.

        Args:
            ended: why a training ended early, such as ``KeyboardInterrupt``.
        """
        if self._closed or self._born != generation():
            return
        self._closed = True
        _open.discard(self)
        try:
            if self.enabled and self._sampler is not None:
                self._sampler.finish()
        except Exception as error:
            self._fail(error)
        self.enabled = False
        self._let_go()
        if self._store is not None:
            self._store.close(ended=ended)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close("" if kind is None else kind.__name__)

    # --- What it knows ------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """How many the training has taken; also the number of the one that is under way."""
        return 0 if self._sampler is None else self._sampler.steps

    @property
    def skipped_steps(self) -> int:
        """How many the optimizer did not take, as GradScaler skips them."""
        return 0 if self._sampler is None else self._sampler.skipped

    @property
    def spent(self) -> float:
        """Seconds inside the monitor so far, its hooks included."""
        return self._clock.seconds

    @property
    def path(self) -> Path | None:
        """Where the run is kept; None where it is not."""
        return None if self._store is None else self._store.path

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """What was found so far: what stands, and what has passed."""
        return self._alerts.all

    @property
    def layout(self) -> Layout | None:
        """Which sites and parameters are watched; None before the end of the first step."""
        return None if self._sampler is None else self._sampler.layout

    def profile(self) -> Profile:
        """Of the newest samples, for ``gradscope.diagnose``; made of what a monitor measures."""
        return self._alerts.profile()

    def record(self, step: int, kind: str, data: dict[str, Any]) -> None:
        """Keeps an event in the store."""
        if self._store is not None:
            self._store.event(step, kind, data)

    # --- What the sampler tells ---------------------------------------------------------------

    def begins(self) -> int:
        if self._store_path is None:
            return self._first_wanted or 0
        self._store = RunWriter(
            Path(self._store_path), self.info, warn=self.warns, first_step=self._first_wanted
        )
        return self._store.first_step

    def lays_out(self, layout: Layout) -> None:
        if self._store is not None:
            self._store.layout(layout)

    def takes_losses(self, first: int, losses: npt.NDArray[np.float32]) -> None:
        given = losses[losses == losses]
        total, count = self._epoch
        self._epoch = total + float(given.sum(dtype=np.float64)), count + len(given)
        self._between.append(losses)
        if self._store is not None:
            self._store.losses(first, losses)

    def takes(self, sampled: Sampled) -> None:
        skipped, self._told = self.skipped_steps - self._told, self.skipped_steps
        if skipped:
            self.record(sampled.step, "skipped", {"steps": skipped})
        sampled = replace(sampled, losses=np.concatenate(self._between))
        self._between = []
        if self._store is not None:
            self._store.sample(sampled.step, sampled.row)
        for alert in self._alerts.see(sampled):
            if self._store is not None:
                self._store.alert(alert)
            self._tell(self._on_finding, alert)
        self._tell(self._on_sample, sampled)

    def _tell(self, listeners: list[Callable[[Any], object]], what: object) -> None:
        for listener in list(listeners):
            try:
                listener(what)
            except Exception as error:
                if self.strict:
                    raise
                listeners.remove(listener)
                self.warns(f"what listens to the monitor has raised {one_line(error)}")

    # --- What goes wrong ----------------------------------------------------------------------

    def failed(self, error: Exception) -> None:
        """In a hook, in the midst of a step: the end of the step deals with it."""
        if self.strict:
            self.enabled = False
            self._let_go()
            raise error
        # Its traceback would keep alive what the model has computed.
        self._noted = self._noted or error.with_traceback(None)

    def warns(self, message: str) -> None:
        """One warning, which kills no training even where warnings are errors."""
        try:
            said = message.rstrip(".")
            warnings.warn(f"gradscope: {said}.", RuntimeWarning, stacklevel=4)
        except RuntimeWarning as warning:
            if sys.stderr is not None:
                sys.stderr.write(f"{warning}\n")

    def _fail(self, error: Exception) -> None:
        """The monitor ends here, and the training goes on."""
        self.enabled = False
        self._let_go()
        if self.strict:
            raise error
        self.warns(
            f"the monitor has stopped at step {self.steps}, and the training goes on without it: "
            f"{one_line(error)}"
        )
        if self._store is not None:
            self._store.close(ended="an error inside the monitor")

    def _take_over(self) -> None:
        """Ends one that was left on the same model and store, as by an error in a notebook."""
        for other in list(_open):
            same = [*map(id, other._roots)] == [*map(id, self._roots)]
            if same and other._store_path == self._store_path is not None:
                other.close("another monitor")
        _open.add(self)

    def _let_go(self) -> None:
        if self._sampler is not None:
            self._sampler.let_go()
        if self._automatic is not None:
            try:
                self._automatic.close()
            except Exception as error:
                self.warns(f"a remedy could not be undone: {one_line(error)}")

    # --- Copies -------------------------------------------------------------------------------

    def __deepcopy__(self, memo: object) -> Monitor:
        return _inert()

    def __reduce__(self) -> tuple[Callable[[], Monitor], tuple[()]]:
        # A trainer that is pickled takes no hooks, threads and files with it.
        return _inert, ()


_open: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _inert() -> Monitor:
    """One that watches nothing."""
    monitor = Monitor(nn.Module(), store=None)
    monitor.close()
    return monitor


@atexit.register
def _close_all() -> None:
    """At the end of a process that has not closed its monitors."""
    for monitor in list(_open):
        monitor.close()
