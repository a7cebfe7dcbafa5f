"""Samples of a training -> the profile of its last ones, that rules can judge."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from gradscope.monitor.sampled import Sampled
from gradscope.records import Source
from gradscope.rules.training import Stuck, TrainingProfile
from gradscope.store.contents import columns_of, moved, sources
from gradscope.store.window import clipping, parameter_profiles, site_profiles
from gradscope.training import (
    PARAMETER_MEASURES,
    SITE_MEASURES,
    STEP_MEASURES,
    Layout,
    RunInfo,
)

__all__ = ["WINDOW", "LiveProfile"]

Rows = npt.NDArray[np.float32]

WINDOW = 16
"""Samples that rules are shown: twice as many as most of them ask for."""

_FIRST = 50
_LOSS_AND_GRADIENT = ("loss", "gradient_norm")
_RECENT = 200

# Below this share of the run's largest learning rate, a weight that stays as it is tells nothing.
_HARDLY_ANY_RATE = 1e-3


class LiveProfile:
    """The last samples of a run, and what has to be known of all before them.

    Memory does not grow with the run. A new layout takes over what has the same name.
    """

    def __init__(self, info: RunInfo, window: int = WINDOW) -> None:
        self._info = info
        self._window = window
        self._layout: Layout | None = None
        self._steps: deque[int] = deque(maxlen=window)
        self._highest: deque[float] = deque(maxlen=window)
        self._before: deque[int] = deque(maxlen=window)
        self._given = 0
        self._rows = np.empty((0, 0), np.float32)
        self._samples = 0
        self._first: list[float] = []
        self._recent = np.empty(0, np.float32)
        self._largest_loss = math.nan
        self._largest_rate = math.nan
        self._largest_update = self._largest_change = math.nan
        self._fixed = _Fixed(Layout((), ()))
        self._idle = self._still = np.empty(0)
        self._was_finite = self._nonfinite = self._site_was_finite = np.empty(0, bool)
        self._broken: deque[bool] = deque(maxlen=window)
        self._loss_was_finite = False

    @property
    def samples(self) -> int:
        return self._samples

    @property
    def broken(self) -> bool:
        """Whether numbers were not finite in the last sample."""
        return bool(self._broken) and self._broken[-1]

    def add(self, sampled: Sampled) -> None:
        """Takes a sample in."""
        if sampled.layout is not self._layout:
            self._lay_out(sampled.layout)
        row = np.asarray(sampled.row, np.float32)
        self._rows = np.concatenate((self._rows[-self._window + 1 :], row[None]))
        self._steps.append(sampled.step)
        self._samples += 1
        self._take_broken(row)
        self._take_losses(np.asarray(sampled.losses, np.float32))
        rate = float(row[STEP_MEASURES.index("learning_rate")])
        self._largest_rate = float(np.fmax(self._largest_rate, rate))
        self._take_parameters(row, rate)

    def _take_broken(self, row: npt.NDArray[np.float32]) -> None:
        """Whether numbers are finite. NaN may also mean that nothing was measured or given."""
        loss, gradient = (float(row[STEP_MEASURES.index(name)]) for name in _LOSS_AND_GRADIENT)
        forward, weight = self._fixed.forward(row), self._fixed.measures(row)[1]
        lost = math.isinf(loss) or (math.isnan(loss) and self._loss_was_finite)
        # At a run's first sample all its sites were measured, later those that were before.
        known = self._site_was_finite if self._samples > 1 else np.isfinite(forward).any()
        turned = bool((~np.isfinite(forward) & known).any())
        infinite = bool(np.isinf(forward).any() or np.isinf(weight).any())
        self._broken.append(not math.isfinite(gradient) and (lost or turned or infinite))
        self._site_was_finite = self._site_was_finite | np.isfinite(forward)
        self._nonfinite = np.isinf(weight) | (self._was_finite & ~np.isfinite(weight))
        self._was_finite = self._was_finite | np.isfinite(weight)

    def _take_losses(self, losses: npt.NDArray[np.float32]) -> None:
        before = losses[:-1]
        before = before[np.isfinite(before)]
        if before.size:
            self._largest_loss = float(np.fmax(self._largest_loss, before.max()))
        self._given += before.size
        self._highest.append(self._largest_loss)
        self._before.append(self._given)
        self._given += int(np.isfinite(losses[-1:]).sum())
        if losses.size and np.isfinite(losses[-1]):
            self._largest_loss = float(np.fmax(self._largest_loss, losses[-1]))
        if len(self._first) < _FIRST:
            given = losses[np.isfinite(losses)]
            self._first += given[: _FIRST - len(self._first)].tolist()
        self._recent = np.concatenate((self._recent, losses))[-_RECENT:]
        self._loss_was_finite |= bool(np.isfinite(losses).any())

    def _take_parameters(self, row: npt.NDArray[np.float32], rate: float) -> None:
        """What has never happened to a parameter, and how far updates moved it at most."""
        if not self._fixed.trainable.size:
            return
        gradient, weight, update = self._fixed.measures(row)
        with np.errstate(all="ignore"):
            ratio = update / weight
            felt = gradient > 0
            moved = update > 0
        # A loss of zero has no gradient, and that is no fault; numbers that are none tell nothing.
        told = row[STEP_MEASURES.index("loss")] != 0 and not self.broken
        # Of what no optimizer has stepped nothing is measured.
        counts = self._fixed.trainable & np.isfinite(weight) & told
        self._idle[felt] = -math.inf
        self._idle[counts] += 1
        if not rate < _HARDLY_ANY_RATE * self._largest_rate and rate != 0:
            self._still[moved] = -math.inf
            self._still[counts & felt & (update == 0)] += 1
        ratio = np.where(np.isfinite(ratio), ratio, np.nan)
        if not np.isnan(ratio).all():
            self._largest_change = float(np.fmax(self._largest_change, np.nanmax(ratio)))
        ratio = ratio[self._fixed.weights]
        if not np.isnan(ratio).all():
            self._largest_update = float(np.fmax(self._largest_update, np.nanmax(ratio)))

    def _lay_out(self, layout: Layout) -> None:
        before, self._layout = self._layout, layout
        if before == layout:
            return
        self._fixed = _Fixed(layout)
        rows = np.full((len(self._rows), layout.columns), np.nan, np.float32)
        idle, still = np.zeros(len(layout.parameters)), np.zeros(len(layout.parameters))
        was_finite = np.zeros(len(layout.parameters), bool)
        if before is not None:
            rows = moved(self._rows, sources(columns_of(before), columns_of(layout)))
            known = {entry.name: at for at, entry in enumerate(before.parameters)}
            for at, entry in enumerate(layout.parameters):
                if entry.name in known:
                    there = known[entry.name]
                    idle[at], still[at] = self._idle[there], self._still[there]
                    was_finite[at] = self._was_finite[there]
        self._rows, self._idle, self._still = rows, idle, still
        self._was_finite, self._nonfinite = was_finite, np.zeros_like(was_finite)
        # What is new, or measured again in another place, has to be finite once.
        self._site_was_finite = np.zeros(len(layout.sites), bool)

    def profile(self) -> TrainingProfile:
        """The profile of the window."""
        layout = self._layout or Layout((), ())
        rows = self._rows if len(self._rows) else np.empty((0, layout.columns), np.float32)
        columns = rows.T.tolist()
        steps = dict(zip(STEP_MEASURES, columns, strict=False))
        info = self._info
        return TrainingProfile(
            source=Source.MEASURED,
            batch_size=0,
            losses=tuple(steps["loss"]),
            input_variation=(),
            sites=site_profiles(layout, columns),
            parameters=parameter_profiles(layout, columns, self._nonfinite.tolist()),
            optimizer=info.optimizers[0] if info.optimizers else None,
            epsilon=info.epsilon,
            seed=0,
            processes=info.processes,
            clipping=clipping(columns),
            sampled=tuple(self._steps),
            used_norms=tuple(steps["used_norm"]),
            learning_rates=tuple(steps["learning_rate"]),
            largest_rate=self._largest_rate,
            samples=self._samples,
            first_losses=tuple(self._first),
            recent_losses=tuple(self._recent.tolist()),
            highest_before=tuple(self._highest),
            losses_before=tuple(self._before),
            idle=_above_zero(layout, self._idle),
            still=_above_zero(layout, self._still),
            broken=tuple(self._broken),
            largest_update=self._largest_update,
            largest_change=self._largest_change,
        )


class _Fixed:
    """What a layout tells of its parameters, as arrays."""

    def __init__(self, layout: Layout) -> None:
        self.trainable = np.array([entry.trainable for entry in layout.parameters], bool)
        flat = np.array([len(entry.shape) < 2 for entry in layout.parameters], bool)
        self.weights = self.trainable & (flat if flat.all() else ~flat)
        self._first, self._width = layout.first_parameter, len(PARAMETER_MEASURES)

    def forward(self, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """RMS of all sites' outputs."""
        return row[len(STEP_MEASURES) : self._first : len(SITE_MEASURES)]

    def measures(self, row: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """Gradient, weight and update norms of all parameters."""
        return [row[self._first + at :: self._width] for at in range(self._width)]


def _above_zero(layout: Layout, counts: npt.NDArray[np.float64]) -> tuple[Stuck, ...]:
    return tuple(
        Stuck(layout.parameters[at].name, int(counts[at])) for at in np.flatnonzero(counts > 0)
    )
