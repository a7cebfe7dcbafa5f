"""Remedies applied to a training while it goes on, and undone where the loss says worse."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope import registry
from gradscope.errors import GradscopeError, UsageError
from gradscope.patch import apply
from gradscope.profile.sharding import bare
from gradscope.records import Finding, Plan, Prescription, Profile, Refusal, Severity
from gradscope.remedies import Training, Undo
from gradscope.schedule import Annealing, Conversion
from gradscope.training import Alert

__all__ = ["REMEDIES", "Automatic"]

REMEDIES = ("artificial-derivative", "learning-rate", "gradient-clipping", "conversion")
"""What there is. ``conversion`` is an artificial derivative under the paper's conversion rule."""

Record = Callable[[int, str, dict[str, Any]], None]

# A loss that is larger by less is the same: the paper's A.
_WORSE = 1.035

# Epochs that tell how much the loss rises by chance.
_HISTORY = 8

# The same remedy for the same fault, as when the learning rate is still too high.
_MOST = 3


@dataclass
class _Applied:
    """A remedy that is in force.

    Attributes:
        undo: puts back what it changed.
        lasting: whether it stays in force without an end, so that others may follow.
    """

    name: str
    code: str
    before: float
    tolerance: float
    undo: Undo
    lasting: bool
    schedule: Annealing | Conversion | None = None
    after: list[float] = field(default_factory=list)
    judged: bool = False


class Automatic:
    """Applies remedies at the ends of epochs, one at a time, and takes back what does not help.

        gradscope.Monitor(model, optimizer, automatic=Automatic())

    At the end of an epoch where an alert stands, the first remedy that treats it is applied:

    - ``artificial-derivative`` is annealed back to the true derivative over the next epochs, then
      taken off;
    - ``conversion`` leaves it to the paper's rule which of the two derivatives is in use;
    - ``learning-rate`` lowers the rate that the optimizer's updates are made with. Schedulers, and
      what is saved, keep their own: it is multiplied during the update alone;
    - ``gradient-clipping`` clips ahead of the update.

    After a few epochs the mean training loss is compared with that of the epoch before. Where it is
    larger by more than 3.5 % and by more than it rose from epoch to epoch before, or not finite,
    the remedy is undone, and not tried for that fault again. All of it is recorded in the store.

    The monitor has to be told of the ends of epochs (``Monitor.epoch``). With several processes
    nothing is applied: they would have to agree.
    """

    def __init__(
        self,
        remedies: Sequence[str] = REMEDIES,
        *,
        window: int = 1,
        anneal: int = 3,
    ) -> None:
        """Nothing happens before the end of the first epoch.

        Args:
            remedies: names, in the order in which they are tried.
            window: epochs after which a remedy is judged, at least 1.
            anneal: epochs from the artificial to the true derivative, at least 1.

        Raises:
            UsageError: there is no such remedy, or a number is no positive whole one.
        """
        for name in remedies:
            if name not in REMEDIES:
                raise UsageError(
                    f"There is no automatic remedy {name!r}; there are {', '.join(REMEDIES)}."
                )
        for what, number in (("window", window), ("anneal", anneal)):
            count: object = number
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise UsageError(f"{what} is a whole number of epochs, 1 or more, not {number!r}.")
        self.remedies, self.window, self.anneal = tuple(remedies), window, anneal
        self._record: Record = lambda *_: None
        self._model: nn.Module | None = None
        self._optimizers: tuple[Optimizer, ...] = ()
        self._profile: Callable[[], Profile] | None = None
        self._steps = 0
        self._losses: list[float] = []
        self._current: _Applied | None = None
        self._kept: list[_Applied] = []
        self._tries: Counter[tuple[str, str]] = Counter()
        self._rests = False

    # --- What a monitor calls -----------------------------------------------------------------

    def attach(
        self,
        model: nn.Module,
        optimizers: Iterable[Optimizer],
        record: Record,
        profile: Callable[[], Profile],
    ) -> None:
        """Is told what is trained.

        Args:
            model: whose sites the alerts name.
            optimizers: of its parameters.
            record: writes an event down: step, kind, what is told of it.
            profile: makes the profile of the last samples.
        """
        self.close()
        self._model, self._optimizers = model, tuple(optimizers)
        self._record, self._profile = record, profile
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if together and torch.distributed.get_world_size() > 1:
            self._model = None
            text = "automatic remedies are for one process; none will be applied"
            self._record(0, "note", {"text": text})
            warnings.warn(f"gradscope: {text}", RuntimeWarning, stacklevel=3)

    def step(self) -> None:
        """After each step of the training."""
        self._steps += 1
        if self._current is not None and isinstance(self._current.schedule, Annealing):
            self._current.schedule.step()

    def epoch(self, step: int, loss: float, alerts: Iterable[Alert]) -> None:
        """At the end of an epoch: judges what is in force, or applies something.

        Args:
            step: that is next.
            loss: mean training loss of the epoch.
            alerts: of the run; those that have closed do not count.
        """
        steps, self._steps = self._steps, 0
        if self._model is None:
            return
        if self._current is not None:
            self._judge(self._current, step, float(loss))
        elif self._rests:
            # Alerts need some samples to see what a remedy that stays has changed.
            self._rests = False
        elif math.isfinite(loss) and steps:
            standing = [alert for alert in alerts if alert.closed is None]
            self._losses = [*self._losses, float(loss)][-_HISTORY:]
            self._remedy(standing, step, steps)
            return
        self._losses = [*self._losses, float(loss)][-_HISTORY:]

    def close(self) -> None:
        """Takes artificial derivatives and hooks off; the training is over."""
        applied = [*self._kept, *([self._current] if self._current else [])]
        self._current, self._kept = None, []
        for each in reversed(applied):
            each.undo()

    # --- Judging ------------------------------------------------------------------------------

    def _judge(self, applied: _Applied, step: int, loss: float) -> None:
        applied.after.append(loss)
        if isinstance(applied.schedule, Conversion):
            before = applied.schedule.artificial
            if applied.schedule.step(loss) is not before:
                self._tell(applied, step, "switched", artificial=applied.schedule.artificial)
        if not applied.judged and (len(applied.after) >= self.window or not math.isfinite(loss)):
            applied.judged = True
            after = sum(applied.after) / len(applied.after)
            if not after <= applied.before + applied.tolerance:
                applied.undo()
                self._current = None
                self._tries[applied.name, applied.code] = _MOST
                data = {"before": applied.before, "after": after, "tolerance": applied.tolerance}
                self._record(
                    step, "undone", {"remedy": applied.name, "finding": applied.code, **data}
                )
                return
            self._tell(applied, step, "kept", before=applied.before, after=after)
            if applied.lasting:
                self._kept.append(applied)
                self._current, self._rests = None, True
        annealed = isinstance(applied.schedule, Annealing) and not applied.schedule.strength
        if annealed and applied.judged:
            applied.undo()
            self._current, self._rests = None, True
            self._tell(applied, step, "annealed")

    def _tell(self, applied: _Applied, step: int, state: str, **data: Any) -> None:
        told = {"remedy": applied.name, "finding": applied.code, "state": state, **data}
        self._record(step, "remedy", told)

    # --- Applying -----------------------------------------------------------------------------

    def _remedy(self, standing: Sequence[Alert], step: int, steps: int) -> None:
        """Applies the first remedy that fits the worst of the faults that nothing explains."""
        codes = {alert.code for alert in standing}
        ranked = sorted(
            (alert for alert in standing if alert.severity is not Severity.INFO),
            key=lambda alert: (alert.cause in codes, alert.severity.rank, alert.step),
        )
        for alert in ranked:
            for name in self.remedies:
                if self._tries[name, alert.code] >= _MOST:
                    continue
                chosen = self._prescribed(name, alert)
                if chosen is None:
                    continue
                self._tries[name, alert.code] += 1
                try:
                    self._current = self._applied(name, alert, chosen, steps)
                except GradscopeError as error:
                    self._tries[name, alert.code] = _MOST
                    self._record(step, "note", {"text": f"{name} was not applied: {error}"})
                    continue
                sites = ", ".join(chosen.sites)
                self._tell(self._current, step, "applied", sites=sites, **chosen.parameters)
                return

    def _prescribed(self, name: str, alert: Alert) -> Prescription | None:
        """The remedy's best proposal for what the alert says; None where it has none."""
        assert self._model is not None and self._profile is not None
        remedy = registry.remedy("artificial-derivative" if name == "conversion" else name)
        changes_updates = name in ("learning-rate", "gradient-clipping")
        if alert.code not in remedy.treats or (changes_updates and not self._optimizers):
            return None
        finding = Finding(
            alert.code, alert.name, alert.severity, alert.sites, alert.message, {}, alert.cause
        )
        for proposal in remedy.propose(finding, self._profile(), bare(self._model)):
            if isinstance(proposal, Refusal):
                continue
            # A larger rate is no remedy that is applied without asking.
            if name == "learning-rate" and not float(proposal.parameters["factor"]) < 1:
                continue
            return proposal
        return None

    def _applied(self, name: str, alert: Alert, chosen: Prescription, steps: int) -> _Applied:
        """Carries a prescription out.

        Raises:
            GradscopeError: it does not fit the model, which is unchanged then.
        """
        assert self._model is not None
        applied = _Applied(
            name, alert.code, self._losses[-1], self._tolerance(), lambda: None, lasting=True
        )
        if name == "learning-rate":
            factor = float(chosen.parameters["factor"])
            undos = [_with_rate(each, factor) for each in self._optimizers_of(alert)]
            applied.undo = _all(undos)
        elif name == "gradient-clipping":
            training = registry.remedy(name).retrain(Training(_no_optimizer), chosen)
            undos = [
                undo
                for optimizer in self._optimizers_of(alert)
                for undo in training.start(bare(self._model), optimizer)
            ]
            applied.undo = _all(undos)
        else:
            patch = apply(self._model, Plan((chosen,)))
            applied.undo, applied.lasting = patch.undo, False
            if name == "conversion":
                rule = Conversion(patch)
                rule.best = min(filter(math.isfinite, self._losses))
                applied.schedule = rule
            else:
                applied.schedule = Annealing(patch, self.anneal * steps)
        return applied

    def _tolerance(self) -> float:
        """How much larger the loss may be by chance."""
        known = [loss for loss in self._losses if math.isfinite(loss)]
        rises = [after - before for before, after in itertools.pairwise(known)]
        return max([(_WORSE - 1) * abs(known[-1]), *rises])

    def _optimizers_of(self, alert: Alert) -> tuple[Optimizer, ...]:
        """Those of the parameters that the alert names; all of them where it names none."""
        assert self._model is not None
        names = set(alert.sites)
        meant = {id(each) for name, each in self._model.named_parameters() if name in names}
        found = tuple(
            optimizer
            for optimizer in self._optimizers
            if any(
                id(each) in meant for group in optimizer.param_groups for each in group["params"]
            )
        )
        return found or self._optimizers


def _all(undos: Sequence[Undo]) -> Undo:
    def undo() -> None:
        for each in undos:
            each()

    return undo


def _no_optimizer(_: Iterable[nn.Parameter]) -> Optimizer:
    raise UsageError("There is an optimizer already.")


def _with_rate(optimizer: Optimizer, factor: float) -> Undo:
    """Has an optimizer make its updates with another learning rate.

    It is put back right after each update, so that schedulers find what they have set, whether
    they go on from it or not, and so that nothing is left of it when the hooks are gone.
    """
    own: list[tuple[dict[str, Any], Any]] = []

    def put_back(*_: Any) -> None:
        while own:
            group, rate = own.pop()
            group["lr"] = rate

    def lower(*_: Any) -> None:
        put_back()  # an update that raised
        for group in optimizer.param_groups:
            own.append((group, group["lr"]))
            group["lr"] = group["lr"] * factor

    before = optimizer.register_step_pre_hook(lower)
    after = optimizer.register_step_post_hook(put_back)

    def undo() -> None:
        before.remove()
        after.remove()
        put_back()

    return undo
