"""The curves of two training runs in one picture: loss, gradient, backward signal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gradscope.history import SiteHistory, TrainingHistory, newest
from gradscope.reports.nodes import Block, Cell, Chart, ChartKind, Column, Figure, Line, Table, Tone
from gradscope.reports.sections.signal import drawable
from gradscope.reports.sections.training import LOG_FROM, how_it_ended
from gradscope.reports.wording import number, sentence

__all__ = ["run_blocks"]

Curve = tuple[Sequence[int], Sequence[float]]
"""Steps and what was seen at them."""


def run_blocks(a: TrainingHistory, b: TrainingHistory) -> Iterator[Block]:
    """One figure whose charts have A and B each; nothing where neither recorded a step."""
    if a.last_step < 0 and b.last_step < 0:
        return
    charts = (
        _chart("Loss", (a.steps, a.loss), (b.steps, b.loss)),
        _chart(
            "Gradient of all parameters (norm)",
            (a.sampled, a.gradient_norm),
            (b.sampled, b.gradient_norm),
            logarithmic=True,
        ),
        _chart(
            "Backward signal at the first layer (RMS of dL/d output)",
            (a.sampled, _backward(a)),
            (b.sampled, _backward(b)),
            logarithmic=True,
        ),
    )
    yield Figure(
        tuple(chart for chart in charts if chart is not None),
        _table(a, b),
        folded=False,
        linked=True,
    )


def _first(history: TrainingHistory) -> SiteHistory | None:
    return next((site for site in history.shown if site.backward_rms), None)


def _backward(history: TrainingHistory) -> Sequence[float]:
    first = _first(history)
    return first.backward_rms if first else (math.nan,) * len(history.sampled)


def _chart(title: str, a: Curve, b: Curve, *, logarithmic: bool = False) -> Chart | None:
    known = [value for _, values in (a, b) for value in values if math.isfinite(value)]
    if not logarithmic and known and all(map(drawable, known)):
        logarithmic = max(known) >= LOG_FROM * min(known)
    shown = drawable if logarithmic else math.isfinite
    lines, said = [], []
    for name, tone, (steps, values) in (("A", Tone.MUTED, a), ("B", Tone.PLAIN, b)):
        points = tuple(
            (float(step), value) for step, value in zip(steps, values, strict=True) if shown(value)
        )
        if points:
            lines.append(Line(name, tone, points))
            said.append(f"{name} from {number(points[0][1])} to {number(points[-1][1])}")
    if not lines:
        return None
    return Chart(
        ChartKind.LINES,
        title,
        f"{title} over training{', log scale' if logarithmic else ''}: {'; '.join(said)}.",
        "step",
        tuple(lines),
        logarithmic=logarithmic,
    )


def _table(a: TrainingHistory, b: TrainingHistory) -> Table:
    both = (a, b)
    signals = [newest(tuple(_backward(each))) for each in both]
    firsts = [first.name if (first := _first(each)) else "–" for each in both]
    rows = [
        ("steps", *(number(each.last_step + 1) for each in both)),
        ("loss at the end", *(number(newest(each.loss)) for each in both)),
        ("least loss", *(number(_least(each.loss)) for each in both)),
        ("gradient at the end", *(number(newest(each.gradient_norm)) for each in both)),
        ("signal at the first layer", *map(number, signals)),
        ("first layer", *firsts),
        ("alerts", *(number(len(each.alerts)) for each in both)),
        ("end", *(sentence(how_it_ended(each)) for each in both)),
    ]
    return Table(
        (Column("of the run"), Column("A"), Column("B")),
        tuple((Cell(what, Tone.MUTED), Cell(in_a), Cell(in_b)) for what, in_a, in_b in rows),
    )


def _least(values: Sequence[float]) -> float:
    return min((value for value in values if math.isfinite(value)), default=math.nan)
