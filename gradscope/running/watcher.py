"""Finds what a script trains while it trains it, and has a monitor watch.

Optimizers appear when they step, models when they are called, losses where a backward call begins:
all through hooks that torch has for every module and optimizer, none of them on the script's own.
Nothing here draws random numbers or changes a tensor. What fails here ends the watching, not the
script.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradscope.running.importing import when_imported
from gradscope.running.rounds import Rounds
from gradscope.store.opening import numbered
from gradscope.training import Alert

if TYPE_CHECKING:
    from torch import nn
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from gradscope.monitor import Monitor
    from gradscope.running.finding import Finder, Found
    from gradscope.running.losses import Losses

__all__ = ["DEFAULT_STORE", "Outcome", "Recorded", "Watcher"]

DEFAULT_STORE = Path("run.gradscope")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One training: of the same models, by the same optimizers.

    Attributes:
        models: their names.
        steps: that the monitor has counted.
        path: of the run store; None where none was written.
        alerts: what was found, in the order in which it opened.
        complete: False when the monitor has ended before the training.
    """

    models: tuple[str, ...]
    steps: int
    path: Path | None
    alerts: tuple[Alert, ...]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What there is to say when the script has ended.

    Attributes:
        recorded: the trainings, in their order.
        notes: what was not recorded, and why: sentences.
        speaks: whether this process is the one of several that tells.
    """

    recorded: tuple[Recorded, ...] = ()
    notes: tuple[str, ...] = ()
    speaks: bool = True


@dataclass(slots=True)
class _Training:
    """What is being monitored."""

    found: Found
    monitor: Monitor
    rounds: Rounds


class Watcher:
    """Waits for torch, then for the first step of an optimizer.

    Args:
        model: which to record where there are several: the name of a variable or a class.
        store: where to; a run that lies there is continued. None for ``run.gradscope`` in the
            working directory, or the first of ``run-2.gradscope`` and so on that is free.
        every, overhead: as of ``Monitor``.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        store: Path | None = None,
        every: int = 100,
        overhead: float | None = 0.02,
    ) -> None:
        self._model, self._store = model, store
        self._every, self._overhead = every, overhead
        self._process = os.getpid()
        self._undo: list[Callable[[], None]] = []
        self._forget_calls: Callable[[], None] = lambda: None
        self._finder: Finder | None = None
        self._losses: Losses | None = None
        self._stepping: weakref.ref[Optimizer] | None = None
        self._stepped: set[int] = set()
        self._training: _Training | None = None
        self._recorded: list[Recorded] = []
        self._notes: list[str] = []

    def start(self) -> None:
        """Before the script runs."""
        self._undo.append(when_imported("torch", self._guarded(self._attach)))

    def finish(self, ended: str = "") -> Outcome:
        """After it, however it ended.

        Args:
            ended: name of the exception that ended it; empty without one.
        """
        if os.getpid() != self._process:
            # A fork of the script has come to the script's end.
            return Outcome(speaks=False)
        self._guarded(self._close)(ended)
        self._detach()
        notes = [*self._notes, *(self._finder.notes if self._finder is not None else ())]
        if not self._recorded and not notes:
            notes.append(_why_nothing())
        # Under a launcher the first process speaks for all.
        speaks = os.environ.get("RANK", "0") == "0"
        return Outcome(tuple(self._recorded), tuple(notes), speaks)

    # --- Being told ---------------------------------------------------------------------------

    def _attach(self) -> None:
        import torch
        from torch.amp.grad_scaler import GradScaler
        from torch.nn.modules.module import register_module_forward_hook
        from torch.optim import optimizer

        from gradscope.running.finding import Finder
        from gradscope.running.losses import Losses

        self._finder, self._losses = Finder(self._model), Losses()
        calls = register_module_forward_hook(self._guarded(self._after_call))
        self._forget_calls = calls.remove
        self._undo += [
            calls.remove,
            optimizer.register_optimizer_step_pre_hook(self._guarded(self._before_step)).remove,
            optimizer.register_optimizer_step_post_hook(self._guarded(self._after_step)).remove,
            _wrap(torch.autograd, "backward", after=self._guarded(self._after_backward)),
            _wrap(GradScaler, "update", before=self._guarded(self._before_update)),
            # A hook would be compiled too, and everything once more when it is gone.
            _wrap(torch, "compile", before=lambda *_, **__: calls.remove()),
        ]

    def _detach(self) -> None:
        undo, self._undo = self._undo, []
        for each in undo:
            each()

    def _guarded(self, call: Callable[..., None]) -> Callable[..., None]:
        """That call in this process alone, and what it raises goes no further."""

        def guarded(*args: Any, **kwargs: Any) -> None:
            if os.getpid() != self._process:
                return
            try:
                call(*args, **kwargs)
            except Exception as error:
                self._give_up(error)

        return guarded

    def _give_up(self, error: Exception) -> None:
        note = (
            f"gradscope stopped watching: {type(error).__name__}: {error}. The training goes on "
            "as if it had not been watched."
        )
        self._notes.append(note)
        self._losses = None
        with suppress(Exception):
            self._detach()
        with suppress(Exception):
            self._close("")
        # Where warnings are errors it is told at the end alone.
        with suppress(Warning):
            warnings.warn(note, RuntimeWarning, stacklevel=3)

    def _after_call(self, module: nn.Module, *_: Any) -> None:
        if self._finder is not None:
            self._finder.called(module)

    def _after_backward(
        self,
        tensors: Any = None,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        *_: Any,
        **__: Any,
    ) -> None:
        if self._losses is None or grad_tensors is not None:
            return
        for root in tensors if isinstance(tensors, (tuple, list)) else (tensors,):
            self._losses.see(root, keep_graph=not retain_graph and not create_graph)

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._losses is None:
            return
        if self._stepping is not None and self._stepping() not in (None, optimizer):
            # An optimizer inside another one's step is a part of it.
            return
        self._stepping = weakref.ref(optimizer)
        self._losses.enter_step()
        if self._training is None or not self._training.found.has(optimizer):
            self._meet(optimizer)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._losses is None or self._stepping is None or self._stepping() is not optimizer:
            return
        self._stepping = None
        self._losses.leave_step()
        self._stepped.add(id(optimizer))
        self._end_turn(id(optimizer))

    def _before_update(self, scaler: GradScaler, *_: Any) -> None:
        """A scaler has had its optimizers step, or skip a step for its infinite gradient."""
        for optimizer in scaler._per_optimizer_states.keys() - self._stepped:
            self._end_turn(optimizer)
        self._stepped.clear()

    def _end_turn(self, optimizer: int) -> None:
        training = self._training
        if self._losses is None:
            return
        if training is None or optimizer not in training.rounds.optimizers:
            self._losses.clear()
        elif training.rounds.stepped(optimizer):
            training.monitor.step(self._losses.take(training.found.scaler))
        else:
            self._losses.settle()

    # --- Monitoring ---------------------------------------------------------------------------

    def _meet(self, optimizer: Optimizer) -> None:
        """Has what a new optimizer trains monitored, in the place of what was until now."""
        if self._finder is None:
            return
        current = None if self._training is None else self._training.found
        found = self._finder.find(optimizer, current)
        if found is None:
            return
        from gradscope.monitor import Monitor

        self._forget_calls()
        self._finder.forget_calls()
        self._close("")
        models = found.models
        monitor = Monitor(
            models if len(models) > 1 else next(iter(models.values())),
            found.optimizers,
            store=self._place(),
            every=self._every,
            overhead=self._overhead,
            scaler=found.scaler,
            midway=True,
        )
        self._training = _Training(found, monitor, Rounds({id(each) for each in found.optimizers}))

    def _place(self) -> Path:
        """Where the store lies: the same for all trainings, which continue it where they can."""
        if self._store is None:
            # The directory of now: a script may change it.
            names = numbered(DEFAULT_STORE.absolute())
            self._store = next(name for name in names if not name.exists())
        return self._store

    def _close(self, ended: str) -> None:
        training, self._training = self._training, None
        if training is None:
            return
        monitor, complete = training.monitor, training.monitor.enabled
        monitor.close(ended)
        recorded = Recorded(
            tuple(training.found.models), monitor.steps, monitor.path, monitor.alerts, complete
        )
        if self._recorded and monitor.path is not None and self._recorded[-1].path == monitor.path:
            # One run, with an optimizer after another.
            before = self._recorded.pop()
            recorded = replace(recorded, alerts=before.alerts + recorded.alerts)
        self._recorded.append(recorded)


def _wrap(
    owner: Any,
    name: str,
    *,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> Callable[[], None]:
    """Has a function tell of its calls; returns what puts it back."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args, **kwargs)
        result = original(*args, **kwargs)
        if after is not None:
            after(*args, **kwargs)
        return result

    def put_back() -> None:
        if getattr(owner, name) is wrapped:
            setattr(owner, name, original)

    setattr(owner, name, wrapped)
    return put_back


def _why_nothing() -> str:
    if "torch" not in sys.modules:
        return "No optimizer step was seen: the script has not imported torch."
    return (
        "No step of a torch.optim optimizer was seen in this process. What is trained in processes "
        "that a script starts is not: put the command behind their launcher, as in 'torchrun … -m "
        "gradscope.cli run SCRIPT'."
    )
