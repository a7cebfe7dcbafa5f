"""Makes a report of a run store: series in few enough points, the newest samples, what was found.

Nothing here needs torch: a run is reported on where it is only looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np

from gradscope.history import ParameterHistory, RunEvent, SiteHistory, TrainingHistory
from gradscope.records import (
    SCHEMA_VERSION,
    Finding,
    Measure,
    Profile,
    Report,
    Skipped,
    Source,
    Target,
    Tool,
)
from gradscope.store.contents import Event
from gradscope.store.reader import Run, open_run
from gradscope.store.window import clipping, parameter_profiles, site_profiles
from gradscope.training import (
    STEP_MEASURES,
    Alert,
    Layout,
    WatchedSite,
)

__all__ = ["history_of", "history_of_rows", "run_report"]

_BINS = 400
"""Points of the series of the whole run, such as the loss."""
_LAYER_BINS = 200
_FEWEST_BINS = 8
_NUMBERS = 150_000
"""Numbers of all layers' series together: what keeps the JSON report under 5 MB."""
_NOTES = 500
"""Alerts, and events, at most; those that stand are all kept."""
_NEWEST = 8
"""Samples that the newest state is told from, as many as a scan passes batches."""
_TEXT = 200
"""Characters kept of what an event tells."""


def run_report(path: str | Path) -> Report:
    """The report of a run: what stood at its last step, and how it went.

    Raises:
        StoreError: the file is no run store, or cannot be read.
    """
    with open_run(path) as run:
        info = run.info
        history = history_of(run)
        return Report(
            schema_version=SCHEMA_VERSION,
            tool=Tool("gradscope", metadata.version("torch-gradscope")),
            target=Target(str(path), "training run", info.parameters),
            environment=dict(info.environment),
            profile=_profile(run, history),
            findings=tuple(_finding(alert) for alert in history.standing),
            plan=None,
            verdict=None,
            skipped=tuple(_skipped(history)),
            refusals=(),
        )


def history_of(run: Run) -> TrainingHistory:
    """The run as a report shows it."""
    layout, history = None, None
    # A run that goes on may change its layout while it is read.
    while history is None or run.layout != layout:
        layout = run.layout
        bins = max(_FEWEST_BINS, min(_LAYER_BINS, _NUMBERS // max(1, _series(layout))))
        steps, rows = run.rows(bins=bins)
        if rows.shape[1] != layout.columns:
            continue
        _, peaks = run.step_measure("gradient_norm", bins=bins, maximum=True)
        loss_steps, losses = run.losses(bins=_BINS)
        _, loss_peaks = run.losses(bins=_BINS, maximum=True)
        some, least = min(len(rows), len(peaks)), min(len(losses), len(loss_peaks))
        known = (loss_steps[:least], losses[:least])
        history = replace(
            _layers(run, layout, steps[:some], rows[:some], known, _rounded),
            loss_peak=_rounded(loss_peaks[:least]),
            gradient_norm_peak=_rounded(peaks[:some]),
            parameters=tuple(_parameters(layout, rows[:some])),
        )
    return history


def history_of_rows(
    run: Run,
    layout: Layout,
    steps: np.ndarray,
    rows: np.ndarray,
    losses: tuple[np.ndarray, np.ndarray],
) -> TrainingHistory:
    """The run as these of its rows and losses show it; without parameters.

    Args:
        run: the opened store; what it tells of alerts and events is read.
        layout: of the rows.
        steps: int64 ``(rows,)``.
        rows: float32 ``(rows, columns)``.
        losses: their steps, and the losses.
    """
    return _layers(run, layout, steps, rows, losses, _floats)


def _layers(
    run: Run,
    layout: Layout,
    steps: np.ndarray,
    rows: np.ndarray,
    losses: tuple[np.ndarray, np.ndarray],
    series: Callable[[np.ndarray], tuple[float, ...]],
) -> TrainingHistory:
    info = run.info
    all_alerts, all_events = run.alerts, run.events
    alerts, events = _newest_alerts(all_alerts), all_events[-_NOTES:]
    loss, norm = series(losses[1]), series(_step(rows, "gradient_norm"))
    return TrainingHistory(
        model=info.model,
        command=info.command,
        every=info.every,
        last_step=run.last_step,
        ended=run.ended,
        dropped=run.dropped,
        seconds=_median(_step(rows, "seconds")),
        steps=tuple(losses[0].tolist()),
        loss=loss,
        loss_peak=loss,
        sampled=tuple(steps.tolist()),
        gradient_norm=norm,
        gradient_norm_peak=norm,
        used_norm=series(_step(rows, "used_norm")),
        learning_rate=series(_step(rows, "learning_rate")),
        sites=tuple(_site(layout, rows, at, site, series) for at, site in enumerate(layout.sites)),
        alerts=alerts,
        events=tuple(_event(event) for event in events),
        left_out=len(all_alerts) - len(alerts) + len(all_events) - len(events),
    )


# --- Series -----------------------------------------------------------------------------------


def _series(layout: Layout) -> int:
    """How many series the layers have."""
    return sum(2 + site.dead_zone + site.bounded for site in layout.sites) + sum(
        len(parameter.shape) > 1 for parameter in layout.parameters
    )


def _step(rows: np.ndarray, measure: str) -> np.ndarray:
    """A column of the step's numbers, shape ``(rows,)``."""
    column: np.ndarray = rows[:, STEP_MEASURES.index(measure)]
    return column


def _site(
    layout: Layout,
    rows: np.ndarray,
    at: int,
    site: WatchedSite,
    series: Callable[[np.ndarray], tuple[float, ...]],
) -> SiteHistory:
    def of(measure: str) -> tuple[float, ...]:
        return series(rows[:, layout.site_column(at, measure)])

    return SiteHistory(
        name=site.name,
        role=site.role,
        operator=site.operator,
        depth=site.depth,
        is_output=site.is_output,
        forward_rms=of("forward_rms"),
        backward_rms=of("backward_rms"),
        dead=of("dead") if site.dead_zone else (),
        saturated=of("saturated") if site.bounded else (),
    )


def _parameters(layout: Layout, rows: np.ndarray) -> Iterable[ParameterHistory]:
    for at, parameter in enumerate(layout.parameters):
        if len(parameter.shape) < 2:
            continue
        ratio = _update_ratio(layout, rows, at)
        if not np.isnan(ratio).all():
            yield ParameterHistory(parameter.name, _rounded(ratio))


def _update_ratio(layout: Layout, rows: np.ndarray, at: int) -> np.ndarray:
    update = rows[:, layout.parameter_column(at, "update_norm")]
    weight = rows[:, layout.parameter_column(at, "weight_norm")]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: np.ndarray = update / weight
    return ratio


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """To four digits: more cannot be seen, and would make a report three times as long."""
    return tuple(float(f"{value:.4g}") for value in values.tolist())


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _newest_alerts(alerts: tuple[Alert, ...]) -> tuple[Alert, ...]:
    gone = [alert for alert in alerts if alert.closed is not None][-_NOTES:]
    kept = [alert for alert in alerts if alert.closed is None] + gone
    return tuple(sorted(kept, key=lambda alert: (alert.step, alert.code)))


def _event(event: Event) -> RunEvent:
    return RunEvent(event.step, event.kind, {name: _plain(one) for name, one in event.data.items()})


def _plain(value: object) -> str | int | float | bool:
    return value if isinstance(value, bool | int | float) else str(value)[:_TEXT]


# --- The newest samples, as a profile ---------------------------------------------------------


def _profile(run: Run, history: TrainingHistory) -> Profile:
    layout, info = run.layout, run.info
    since = history.sampled[-1 - _NEWEST] if len(history.sampled) > _NEWEST else -1
    _, rows = run.rows(since=since)
    rows = rows[-_NEWEST:]
    columns = rows.T.tolist()
    return Profile(
        source=Source.MEASURED,
        batch_size=0,
        losses=_floats(_step(rows, "loss")),
        input_variation=(),
        sites=site_profiles(layout, columns),
        parameters=parameter_profiles(layout, columns),
        optimizer=info.optimizers[0] if info.optimizers else None,
        epsilon=info.epsilon,
        seed=0,
        processes=info.processes,
        clipping=clipping(columns),
        training=history,
    )


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())


# --- Findings ---------------------------------------------------------------------------------


def _finding(alert: Alert) -> Finding:
    return Finding(
        code=alert.code,
        name=alert.name,
        severity=alert.severity,
        sites=alert.sites,
        message=alert.message,
        evidence={
            name: Measure(value, alert.limits.get(name), Source.MEASURED)
            for name, value in alert.values.items()
        },
        cause=alert.cause,
        remedies=alert.remedies,
        since=alert.step,
    )


def _skipped(history: TrainingHistory) -> Iterable[Skipped]:
    if history.dropped:
        yield Skipped(
            "records",
            f"{history.dropped:,} were dropped, because the disk was slower than training",
        )
    skipped = sum(
        int(each.data.get("steps", 1)) for each in history.events if each.kind == "skipped"
    )
    if skipped:
        yield Skipped("updates", f"the optimizer skipped {skipped:,}, whose gradient overflowed")
