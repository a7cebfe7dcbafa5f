"""What a monitor found in a training run, and when: by fault, and one by one.

The line of a fault has one mark for each part of the run, so that a terminal shows at a glance what
came, what went and what stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.history import TrainingHistory
from gradscope.reports.nodes import Cell, Column, Table, Tone
from gradscope.reports.wording import (
    FOUND,
    MARKS_OVER_TIME,
    NOT_FOUND,
    SEVERITY,
    listed,
    number,
    over_time,
    spoken,
)
from gradscope.training import Alert

__all__ = ["every_alert", "every_event", "findings_over_steps"]

_LISTED = 50
"""Alerts and events listed one by one, at most."""
_NAMES = 2


def findings_over_steps(history: TrainingHistory) -> Table:
    """One line for each fault: since when, until when, how often, and a mark for each part."""
    groups: dict[str, list[Alert]] = {}
    for alert in history.alerts:
        groups.setdefault(alert.code, []).append(alert)
    rows = []
    for code, alerts in sorted(groups.items(), key=lambda group: _order(group[1])):
        stands = any(alert.closed is None for alert in alerts)
        worst = min(alerts, key=lambda alert: alert.severity.rank)
        mark = SEVERITY[worst.severity]
        rows.append(
            (
                Cell(f"{mark.symbol} {code}", mark.tone if stands else Tone.MUTED),
                Cell(alerts[-1].name),
                Cell(f"{min(alert.step for alert in alerts):,}"),
                Cell("now" if stands else f"{max(alert.closed or 0 for alert in alerts):,}"),
                Cell(f"{len(alerts):,}"),
                Cell(_marks(alerts, history.last_step)),
            )
        )
    return Table(
        (
            Column("code"),
            Column("finding"),
            Column("since step", numeric=True),
            Column("until", numeric=True),
            Column("times", numeric=True),
            Column("over training", name=True),
        ),
        tuple(rows),
        f"From the first step to step {history.last_step:,}: {FOUND} found, {NOT_FOUND} not found.",
    )


def _order(alerts: Sequence[Alert]) -> tuple[bool, int, int]:
    """What stands first, then what is worse, then what came earlier."""
    return (
        all(alert.closed is not None for alert in alerts),
        min(alert.severity.rank for alert in alerts),
        min(alert.step for alert in alerts),
    )


def _marks(alerts: Sequence[Alert], last: int) -> str:
    each = (last + 1) / MARKS_OVER_TIME
    return over_time(
        [
            alert.step < (at + 1) * each and (alert.closed is None or alert.closed > at * each)
            for alert in alerts
        ]
        for at in range(MARKS_OVER_TIME)
    )


def every_alert(history: TrainingHistory) -> Table:
    """The newest alerts with their messages."""
    shown = history.alerts[-_LISTED:]
    rows = tuple(
        (
            Cell(f"{alert.step:,}"),
            Cell("–" if alert.closed is None else f"{alert.closed:,}"),
            Cell(f"{alert.code} {alert.name}"),
            Cell(_where(alert)),
            Cell(alert.message),
        )
        for alert in shown
    )
    columns = (
        Column("step", numeric=True),
        Column("until", numeric=True),
        Column("finding"),
        Column("where", name=True),
        Column("message"),
    )
    return Table(columns, rows, _newest_of(len(shown), len(history.alerts)))


def _where(alert: Alert) -> str:
    more = len(alert.sites) - _NAMES
    return listed(alert.sites[:_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def every_event(history: TrainingHistory) -> Table:
    """The newest events and what is told of them."""
    shown = history.events[-_LISTED:]
    rows = tuple(
        (
            Cell(f"{event.step:,}"),
            Cell(spoken(event.kind)),
            Cell(
                "; ".join(
                    f"{spoken(name)} {number(value) if type(value) is float else value}"
                    for name, value in event.data.items()
                )
            ),
        )
        for event in shown
    )
    columns = (Column("step", numeric=True), Column("event"), Column("what is told"))
    return Table(columns, rows, _newest_of(len(shown), len(history.events)))


def _newest_of(shown: int, whole: int) -> str:
    return f"The newest {shown} of {whole:,}." if shown < whole else ""
