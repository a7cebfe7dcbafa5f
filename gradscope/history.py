"""A training run as it is shown: what a monitor recorded, in few enough points; no torch.

It is part of a profile (``Profile.training``). However long a run was, its series have at most some
hundred points, so that the report of a day stays small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.training import Alert

__all__ = ["ParameterHistory", "RunEvent", "SiteHistory", "TrainingHistory", "newest"]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened at a step: an epoch's end, a skipped update, a remedy, a resumption.

    Attributes:
        kind: such as ``epoch``, ``skipped``, ``remedy``, ``undone``, ``resumed``, ``note``.
        data: what is told of it, as text where it is no plain value.
    """

    step: int
    kind: str
    data: dict[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class SiteHistory:
    """One site over training; series have one value for each of ``TrainingHistory.sampled``.

    Attributes:
        name, role, operator, depth, is_output: as in ``SiteProfile``.
        forward_rms, backward_rms: means over the bin; NaN where none arrived.
        dead, saturated: shares of units; empty where the operator has no dead zone, no bounds.
    """

    name: str
    role: str
    operator: str
    depth: int
    is_output: bool
    forward_rms: tuple[float, ...]
    backward_rms: tuple[float, ...]
    dead: tuple[float, ...] = ()
    saturated: tuple[float, ...] = ()

    @property
    def idle(self) -> tuple[float, ...]:
        """Shares of units that pass no gradient on: ``dead``, else ``saturated``."""
        return self.dead or self.saturated


@dataclass(frozen=True, slots=True)
class ParameterHistory:
    """One parameter over training.

    Attributes:
        update_ratio: norm of the update over that of the weights before it, means over the bin
            (dimensionless); NaN where it was not measured.
    """

    name: str
    update_ratio: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """A run from its first step to the last that was recorded.

    Steps are counted from 0. A series has one value for each bin of neighbouring steps; those
    called ``_peak`` hold the largest, all others the mean.

    Attributes:
        model: class name.
        command: how the process was started; empty where unknown.
        every: steps between samples, as asked for.
        last_step: of all that was recorded; -1 where nothing was.
        ended: empty where the run finished, else what ended it; None where it still runs or was
            killed.
        dropped: how many samples, pieces of losses, alerts and events could not be stored.
        seconds: median duration of a step; NaN where unknown.
        steps: the last step of each bin of ``loss`` and ``loss_peak``.
        loss: NaN where the monitor was given none.
        sampled: the last step of each bin of everything below.
        gradient_norm, used_norm, learning_rate: as of ``STEP_MEASURES``.
        sites: in execution order.
        parameters: those of at least two dimensions, in the model's order; only such whose updates
            were measured.
        alerts: by the step where they opened.
        events: in order.
        left_out: how many alerts and events there were beyond those kept here.
    """

    model: str
    command: tuple[str, ...]
    every: int
    last_step: int
    ended: str | None
    dropped: int
    seconds: float
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    loss_peak: tuple[float, ...]
    sampled: tuple[int, ...]
    gradient_norm: tuple[float, ...]
    gradient_norm_peak: tuple[float, ...]
    used_norm: tuple[float, ...]
    learning_rate: tuple[float, ...]
    sites: tuple[SiteHistory, ...] = ()
    parameters: tuple[ParameterHistory, ...] = ()
    alerts: tuple[Alert, ...] = ()
    events: tuple[RunEvent, ...] = ()
    left_out: int = 0

    @property
    def standing(self) -> tuple[Alert, ...]:
        """Alerts that had not closed at the end, worst first."""
        stand = [alert for alert in self.alerts if alert.closed is None]
        return tuple(sorted(stand, key=lambda alert: (alert.severity.rank, alert.step)))

    @property
    def shown(self) -> tuple[SiteHistory, ...]:
        """The activations and the model's output; all sites where there are fewer than two."""
        activations = [site for site in self.sites if site.role == "activation"]
        if len(activations) < 2:
            return self.sites
        return tuple(site for site in self.sites if site.role == "activation" or site.is_output)


def newest(series: tuple[float, ...]) -> float:
    """The last value that was measured; NaN where none was."""
    return next((value for value in reversed(series) if not math.isnan(value)), math.nan)
