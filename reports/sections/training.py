"""A training run as its monitor recorded it: findings over steps, loss, gradient, and every layer.

The layers are drawn over steps, one row each, so that where and when a signal dies is one glance;
the terminal's table has the first layer, which a vanishing gradient reaches last, and the worst.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

from gradscope.history import ParameterHistory, SiteHistory, TrainingHistory, newest
from gradscope.reports.nodes import (
    Block,
    Cell,
    Chart,
    ChartKind,
    Column,
    Figure,
    Fold,
    HeatMap,
    Line,
    Paragraph,
    Table,
    Tone,
)
from gradscope.reports.sections.layer_histories import run_histories
from gradscope.reports.sections.signal import BAR_DECADES, drawable
from gradscope.reports.sections.stored import INACTIVE
from gradscope.reports.sections.training_findings import (
    every_alert,
    every_event,
    findings_over_steps,
)
from gradscope.reports.wording import among, count, number, percent, positions_shown

__all__ = ["LOG_FROM", "how_it_ended", "looked_over_run", "over_run"]

_ROWS = 12
"""Points in time that are listed, at most; more are thinned evenly."""
_HEAT_ROWS = 200
"""Layers drawn, at most; more are thinned evenly."""
Row = TypeVar("Row", SiteHistory, ParameterHistory)
_X_TITLE = "step (layers from input to output)"
LOG_FROM = 30.0
"""A loss whose largest value is so many times its least is drawn on a log scale."""


def how_it_ended(history: TrainingHistory) -> str:
    """A clause: finished, broken off, or not known to have ended."""
    if history.ended is None:
        return "it had not ended when this was read, or was killed"
    return f"it was broken off by {history.ended}" if history.ended else "it ran to its end"


def looked_over_run(history: TrainingHistory) -> str:
    """One or two sentences: what was recorded, and how the run ended."""
    if history.last_step < 0:
        return "The run has recorded no step."
    many = count(history.last_step + 1, "step")
    left = f"; {count(history.dropped, 'record')} were dropped" if history.dropped else ""
    return (
        f"Recorded {many} of training at {count(len(history.sites), 'site')}{left}; "
        f"{how_it_ended(history)}."
        + (" What was found is what stood at the last step." if history.standing else "")
    )


def over_run(history: TrainingHistory) -> tuple[Block, ...]:
    """The findings over steps, one figure, and every alert and event behind a fold."""
    if history.last_step < 0:
        return (Paragraph("Nothing was recorded.", Tone.MUTED),)
    blocks: list[Block] = []
    if history.alerts:
        blocks.append(findings_over_steps(history))
    blocks.append(_figure(history))
    if history.alerts:
        blocks.append(
            Fold(f"{count(len(history.alerts), 'alert')}, one by one", (every_alert(history),))
        )
    if history.events:
        blocks.append(Fold(count(len(history.events), "event"), (every_event(history),)))
    if history.left_out:
        blocks.append(
            Paragraph(
                f"{count(history.left_out, 'earlier alert or event')} more are in the run store.",
                Tone.MUTED,
            )
        )
    return tuple(blocks)


# --- How it went ------------------------------------------------------------------------------


def _figure(history: TrainingHistory) -> Figure:
    drawn = (
        _loss(history),
        _gradient(history),
        _backward(history),
        _idle(history),
        _updates(history),
    )
    return Figure(
        tuple(chart for chart in drawn if chart is not None),
        _table(history),
        linked=True,
        histories=run_histories(history.sampled, _few(history.shown), _few(history.parameters)),
    )


def _few(rows: Sequence[Row]) -> list[Row]:
    """What is drawn, and can be chosen, of so many layers or parameters."""
    return [rows[at] for at in positions_shown(len(rows), _HEAT_ROWS)]


def _loss(history: TrainingHistory) -> Chart | None:
    known = [value for value in history.loss if math.isfinite(value)]
    if not known:
        return None
    peaks = [value for value in history.loss_peak if math.isfinite(value)]
    positive = all(drawable(value) for value in (*known, *peaks))
    logarithmic = positive and max(known + peaks) >= LOG_FROM * min(known)
    mean = _line("loss", Tone.PLAIN, history.steps, history.loss, logarithmic)
    lines = [mean]
    if any(peak > value for peak, value in zip(history.loss_peak, history.loss, strict=True)):
        mean = Line("mean of the steps", mean.tone, mean.points, mean.missing)
        peak = _line("largest", Tone.MUTED, history.steps, history.loss_peak, logarithmic)
        lines = [mean, Line(peak.name, peak.tone, peak.points)]
    said = f"from {number(known[0])} to {number(known[-1])}, {number(min(known))} at least"
    return Chart(
        ChartKind.LINES,
        "Loss",
        f"Loss over training{', log scale' if logarithmic else ''}: {said}.",
        "step" + (" (× not finite, or none given)" if mean.missing else ""),
        tuple(lines),
        logarithmic=logarithmic,
    )


def _gradient(history: TrainingHistory) -> Chart | None:
    title = "Gradient of all parameters (norm)"
    before = _line("before clipping", Tone.PLAIN, history.sampled, history.gradient_norm, True)
    if not before.points:
        return None
    lines = [before]
    used = _line("after", Tone.GOOD, history.sampled, history.used_norm, True)
    if any(
        not math.isclose(one, other, rel_tol=1e-3)
        for one, other in zip(history.gradient_norm, history.used_norm, strict=True)
        if drawable(one) and drawable(other)
    ):
        lines.append(Line(used.name, used.tone, used.points))
    else:
        lines = [Line("mean of the steps", before.tone, before.points, before.missing)]
    if any(
        peak > 1.01 * value
        for peak, value in zip(history.gradient_norm_peak, history.gradient_norm, strict=True)
    ):
        peak = _line("largest", Tone.MUTED, history.sampled, history.gradient_norm_peak, True)
        lines.append(Line(peak.name, peak.tone, peak.points))
    ends = f"from {number(before.points[0][1])} to {number(before.points[-1][1])}"
    return Chart(
        ChartKind.LINES,
        title,
        f"{title} over training, log scale: {ends}.",
        "step" + (" (× zero or not finite)" if before.missing else ""),
        tuple(lines),
        logarithmic=True,
    )


def _line(
    name: str, tone: Tone, steps: Sequence[int], values: Sequence[float], logarithmic: bool
) -> Line:
    points, missing = [], []
    for step, value in zip(steps, values, strict=True):
        if drawable(value) if logarithmic else math.isfinite(value):
            points.append((float(step), value))
        else:
            missing.append(float(step))
    return Line(name, tone, tuple(points), tuple(missing[:: max(1, len(missing) // 30)]))


def _backward(history: TrainingHistory) -> HeatMap | None:
    sites = [site for site in _few(history.shown) if site.backward_rms]
    known = [value for site in sites for value in site.backward_rms if drawable(value)]
    if not known:
        return None
    first, last = newest(sites[0].backward_rms), newest(sites[-1].backward_rms)
    title = "Backward signal by layer (RMS of dL/d output)"
    return HeatMap(
        title,
        f"{title} over training, log scale from {number(min(known))} to {number(max(known))}; at "
        f"the end {number(first)} at the first and {number(last)} at the last of "
        f"{count(len(history.shown), 'site')}.",
        _X_TITLE,
        _edges(history),
        tuple((site.name, site.backward_rms) for site in sites),
        logarithmic=True,
    )


def _idle(history: TrainingHistory) -> HeatMap | None:
    sites = [site for site in _few(history.shown) if site.idle]
    if not any(value > 0 for site in sites for value in site.idle):
        return None
    kinds = [
        name
        for name, has in (
            ("dead", any(site.dead for site in sites)),
            ("saturated", any(site.saturated and not site.dead for site in sites)),
        )
        if has
    ]
    title = f"{' or '.join(kinds).capitalize()} units by layer"
    worst = max(history.shown, key=lambda site: _known(newest(site.idle)))
    return HeatMap(
        title,
        f"{title} over training, as a share of the layer's units; at the end at most "
        f"{percent(_known(newest(worst.idle)))} ({worst.name}).",
        _X_TITLE,
        _edges(history),
        tuple((site.name, site.idle) for site in sites),
        percent=True,
    )


def _updates(history: TrainingHistory) -> HeatMap | None:
    parameters = [each for each in _few(history.parameters) if each.update_ratio]
    known = [value for each in parameters for value in each.update_ratio if drawable(value)]
    if not known:
        return None
    title = "Updates by parameter (norm of the update over that of the weights)"
    ends = sorted(_known(newest(each.update_ratio)) for each in parameters)
    return HeatMap(
        title,
        f"{title} over training, log scale from {number(min(known))} to {number(max(known))}; at "
        f"the end {number(ends[0])} to {number(ends[-1])} over "
        f"{count(len(history.parameters), 'parameter')}; about 0.001 is usual.",
        _X_TITLE,
        _edges(history),
        tuple((each.name, each.update_ratio) for each in parameters),
        logarithmic=True,
    )


def _edges(history: TrainingHistory) -> tuple[float, ...]:
    """Where columns end: what was seen holds until the next is seen."""
    return (*map(float, history.sampled[1:]), float(history.last_step + 1))


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _table(history: TrainingHistory) -> Table:
    rows = min(_ROWS, history.last_step + 1)
    ends = [math.ceil((at + 1) * (history.last_step + 1) / rows) - 1 for at in range(rows)]
    first = next((site for site in history.shown if site.backward_rms), None)
    logs = [math.log10(value) for value in (first.backward_rms if first else ()) if drawable(value)]
    high = max(logs, default=0.0)
    low = min([*logs, high - BAR_DECADES])
    idle = any(value > 0 for site in history.shown for value in site.idle)
    columns = [
        Column("to step", numeric=True),
        Column("loss", numeric=True),
        Column("gradient", numeric=True),
        Column("after clipping", numeric=True, optional=True),
        Column("rate", numeric=True, optional=True),
        Column("first layer", numeric=True),
    ]
    if idle:
        columns.append(Column("idle at worst", numeric=True))
    cells = []
    for begin, end in pairwise([-1, *ends]):
        at = _last_within(history.sampled, begin, end)
        sample = (Cell("–"),) * (len(columns) - 2)
        if at is not None:
            sample = tuple(_sample(history, first, at, low, high, idle))
        cells.append((Cell(f"{end:,}"), Cell(_loss_within(history, begin, end)), *sample))
    caption = (
        "The last sample of each part; norm of the gradient of all parameters; first layer: RMS of "
        f"dL/d output of {first.name if first else 'none'}, bars on a log scale from "
        f"{number(10**low)} to {number(10**high)}."
    )
    if idle:
        caption += " Idle: the largest share of a layer's units that are dead or saturated."
    return Table(tuple(columns), tuple(cells), caption)


def _sample(
    history: TrainingHistory,
    first: SiteHistory | None,
    at: int,
    low: float,
    high: float,
    idle: bool,
) -> Iterator[Cell]:
    yield Cell(_said(history.gradient_norm[at]))
    yield Cell(_said(history.used_norm[at]))
    yield Cell(_said(history.learning_rate[at]))
    value = first.backward_rms[at] if first else math.nan
    yield Cell(_said(value), bar=among(math.log10(value), low, high) if drawable(value) else 0.0)
    if idle:
        worst = max((_known(site.idle[at]) for site in history.shown if site.idle), default=0.0)
        yield Cell(percent(worst), Tone.BAD if worst > INACTIVE else Tone.PLAIN)


def _last_within(steps: Sequence[int], begin: int, end: int) -> int | None:
    """Index of the last step after ``begin`` and up to ``end``."""
    at = bisect_right(steps, end) - 1
    return at if at >= 0 and steps[at] > begin else None


def _loss_within(history: TrainingHistory, begin: int, end: int) -> str:
    at = _last_within(history.steps, begin, end)
    if at is None or not any(math.isfinite(value) for value in history.loss):
        return "–"
    return number(history.loss[at])


def _said(value: float) -> str:
    return "–" if math.isnan(value) else number(value)
