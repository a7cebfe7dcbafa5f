"""A run over its checkpoints: what was found when, and how gradients and weights went.

The table of findings has one mark for each checkpoint, so that a terminal shows at a glance what a
chart would; of many checkpoints several share a mark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gradscope.reports.nodes import (
    Block,
    Cell,
    Chart,
    ChartKind,
    Column,
    Figure,
    Fold,
    Line,
    Table,
    Tone,
)
from gradscope.reports.sections.signal import BAR_DECADES, drawable
from gradscope.reports.sections.stored import GRADIENT, INACTIVE, SCALE
from gradscope.reports.wording import (
    FOUND,
    MARKS_OVER_TIME,
    NOT_FOUND,
    SEVERITY,
    UNTOLD,
    among,
    count,
    number,
    over_time,
    percent,
    positions_shown,
)
from gradscope.trajectory import History, Snapshot, histories, places

__all__ = ["looked_over", "over_training"]

_ROWS = 12
"""Checkpoints listed, at most; more are thinned evenly, and all are in the JSON report."""
_POINTS = 200
"""Checkpoints drawn, at most."""

Value = Callable[[Snapshot], float]


def looked_over(snapshots: Sequence[Snapshot]) -> str:
    """One sentence: which checkpoints were read, and which of them is the newest."""
    read = [each for each in snapshots if not each.unread]
    left = len(snapshots) - len(read)
    unread = f"; {left} more could not be" if left else ""
    return (
        f"Read {count(len(read), 'checkpoint')}{unread}. What was found is of the newest, "
        f"{read[-1].name}."
    )


def over_training(snapshots: Sequence[Snapshot]) -> tuple[Block, ...]:
    """The findings over time, and one figure: gradients, idle units, scale of the weights."""
    found = histories(snapshots)
    figure = _figure([each for each in snapshots if not each.unread])
    if not found:
        return (Fold("A run without findings, for comparison", (figure,)),)
    return _findings(found, snapshots), figure


def _findings(found: Sequence[History], snapshots: Sequence[Snapshot]) -> Table:
    read = [index for index, each in enumerate(snapshots) if not each.unread]
    newest = read[-1]
    each_mark = math.ceil(len(snapshots) / MARKS_OVER_TIME)
    told_as = places(snapshots)
    rows = tuple(
        (
            Cell(
                f"{SEVERITY[one.severity].symbol} {one.code}",
                SEVERITY[one.severity].tone if one.seen[newest] else Tone.MUTED,
            ),
            Cell(one.name),
            Cell(told_as[one.first]),
            Cell(_until(one, newest, told_as)),
            Cell(f"{one.faulty:,} of {one.telling:,}"),
            Cell(_marks(one.seen, each_mark)),
        )
        for one in found
    )
    told = f"{FOUND} found, {NOT_FOUND} not found"
    if any(None in one.seen for one in found):
        told += f", {UNTOLD} not told"
    shared = f", {each_mark} checkpoints a mark" if each_mark > 1 else ""
    return Table(
        (
            Column("code"),
            Column("finding"),
            Column("since"),
            Column("until"),
            Column("in"),
            Column("over training", name=True),
        ),
        rows,
        f"From the oldest checkpoint to the newest{shared}: {told}.",
    )


def _until(one: History, newest: int, told_as: Sequence[str]) -> str:
    if one.seen[newest]:
        return "now"
    last = told_as[one.last]
    return f"{last}, not told since" if one.lasts else last


def _marks(seen: Sequence[bool | None], each_mark: int) -> str:
    return over_time(seen[at : at + each_mark] for at in range(0, len(seen), each_mark))


# --- How gradients and weights went -----------------------------------------------------------


def _figure(read: Sequence[Snapshot]) -> Figure:
    dated = [each for each in read if each.step is not None]
    # Some whose step nobody knows, such as the best so far, must not take the axis from the rest.
    placed = dated if 2 * len(dated) > len(read) else read
    drawn = [placed[at] for at in positions_shown(len(placed), _POINTS)]
    remembered = any(each.gradient_last >= 0 for each in read)
    charts = [
        chart
        for chart in (_gradients(drawn), _inactive(drawn), None if remembered else _scales(drawn))
        if chart is not None
    ]
    return Figure(tuple(charts), _table(read, remembered), linked=True)


def _table(read: Sequence[Snapshot], remembered: bool) -> Table:
    told_as = places(read)
    shown = [(told_as[at], read[at]) for at in positions_shown(len(read), _ROWS)]
    known = [
        math.log10(value)
        for each in read
        for value in (each.gradient_first, each.gradient_last)
        if drawable(value)
    ]
    high = max(known, default=0.0)
    low = min([*known, high - BAR_DECADES])
    columns = [Column("checkpoint")]
    if remembered:
        columns += [
            Column("first layer", numeric=True),
            Column("last layer", numeric=True),
            Column("no gradient", numeric=True),
            Column("next update", numeric=True, optional=True),
        ]
    columns += [Column("scale", numeric=True), Column("to", numeric=True)]
    rows = []
    for place, each in shown:
        row = [Cell(place)]
        if remembered:
            value = each.gradient_first
            bar = among(math.log10(value), low, high) if drawable(value) else 0.0
            row += [
                Cell(_said(value), bar=bar),
                Cell(_said(each.gradient_last)),
                Cell(
                    "–" if math.isnan(each.inactive) else percent(each.inactive),
                    Tone.BAD if each.inactive > INACTIVE else Tone.PLAIN,
                ),
                Cell(_said(each.update_ratio)),
            ]
        row += [Cell(_said(each.scale_low)), Cell(_said(each.scale_high))]
        rows.append(tuple(row))
    left = len(read) - len(shown)
    gradients = (
        "Gradient RMS of the first and the last layer, and the largest share of a layer's units "
        "without a gradient, as the optimizer remembers them. "
        if remembered
        else ""
    )
    return Table(
        tuple(columns),
        tuple(rows),
        f"{gradients}Scale: least and largest of the layers."
        + (f" {count(left, 'checkpoint')} between these are in the JSON report." if left else ""),
    )


def _said(value: float) -> str:
    return "–" if math.isnan(value) else number(value)


def _gradients(drawn: Sequence[Snapshot]) -> Chart | None:
    title = GRADIENT
    return _chart(
        drawn,
        title,
        {
            "first layer": lambda each: each.gradient_first,
            "last layer": lambda each: each.gradient_last,
        },
    )


def _scales(drawn: Sequence[Snapshot]) -> Chart | None:
    title = SCALE
    return _chart(
        drawn,
        title,
        {
            "least of the layers": lambda each: each.scale_low,
            "largest": lambda each: each.scale_high,
        },
    )


def _chart(drawn: Sequence[Snapshot], title: str, values: dict[str, Value]) -> Chart | None:
    positions, x_title = _positions(drawn)
    lines = []
    for (name, value), tone in zip(values.items(), (Tone.PLAIN, Tone.MUTED), strict=True):
        points = tuple(
            (at, seen)
            for at, each in zip(positions, drawn, strict=True)
            if drawable(seen := value(each))
        )
        missing = tuple(
            at
            for at, each in zip(positions, drawn, strict=True)
            if not (drawable(seen := value(each)) or math.isnan(seen))
        )
        if points:
            lines.append(Line(name, tone, points, missing))
    if not lines:
        return None
    ends = "; ".join(
        f"{line.name} from {number(line.points[0][1])} to {number(line.points[-1][1])}"
        for line in lines
    )
    summary = f"{title} over training, log scale: {ends}."
    return Chart(ChartKind.LINES, title, summary, x_title, tuple(lines), logarithmic=True)


def _inactive(drawn: Sequence[Snapshot]) -> Chart | None:
    positions, x_title = _positions(drawn)
    points = tuple(
        (at, each.inactive)
        for at, each in zip(positions, drawn, strict=True)
        if not math.isnan(each.inactive)
    )
    if not points:
        return None
    title = "Units without a gradient (share, of the worst layer)"
    return Chart(
        ChartKind.LINES,
        title,
        f"{title} over training: from {percent(points[0][1])} to {percent(points[-1][1])}, "
        f"{percent(max(share for _, share in points))} at most.",
        x_title,
        (Line("worst layer", Tone.BAD, points),),
        percent=True,
    )


def _positions(drawn: Sequence[Snapshot]) -> tuple[list[float], str]:
    """Where the checkpoints stand on the x axis, and what that is."""
    steps = [each.step for each in drawn]
    if None in steps or len(set(steps)) < len(steps):
        return [float(at) for at in range(1, len(drawn) + 1)], "checkpoint, in order"
    return [float(step) for step in steps if step is not None], "step"
