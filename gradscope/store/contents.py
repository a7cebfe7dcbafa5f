"""What the records of a run look like in the store: JSON by name, so that versions can differ.

A stored layout lists the measures that its rows hold. A version with others, or with sites that
came later, finds the columns that it knows by their names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np

from gradscope.severity import Severity
from gradscope.training import (
    PARAMETER_MEASURES,
    SITE_MEASURES,
    STEP_MEASURES,
    Alert,
    Layout,
    RunInfo,
    WatchedParameter,
    WatchedSite,
)

__all__ = [
    "Columns",
    "Event",
    "Session",
    "StoredLayout",
    "alert_from",
    "columns_of",
    "info_from",
    "layout_from",
    "moved",
    "of_layout",
    "sources",
    "written",
]

Columns = tuple[tuple[str, str, str], ...]
"""What each column of a row is: "step", "site" or "parameter", whose, and the measure."""

_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened at a step, other than an alert.

    Attributes:
        time: Unix time in seconds.
        kind: as the monitor names it: "remedy", "undone", "skipped", "epoch", "note".
        data: what is to be told of it.
    """

    step: int
    time: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """One process's part of a run: from a start, or a resume, to its end.

    Attributes:
        first_step: where its steps begin.
        started, updated: Unix time in seconds, of the start and of the last sign of life.
        ended: "" if it finished, else why it ended; None while it runs, or if it was killed.
        dropped: how many samples and losses could not be stored.
        info: what it was told when it started.
    """

    first_step: int
    started: float
    updated: float
    ended: str | None
    dropped: int
    info: RunInfo


@dataclass(frozen=True, slots=True)
class StoredLayout:
    """A layout, and what the columns of rows with it are."""

    layout: Layout
    columns: Columns


def written(content: object) -> str:
    """Content as compact JSON; what JSON does not know becomes its text."""
    return json.dumps(content, separators=(",", ":"), skipkeys=True, default=_plain)


def of_layout(layout: Layout) -> str:
    """What is stored of a layout."""
    return written(
        {
            "measures": {
                "step": STEP_MEASURES,
                "site": SITE_MEASURES,
                "parameter": PARAMETER_MEASURES,
            },
            **asdict(layout),
        }
    )


def layout_from(text: str) -> StoredLayout:
    """The layout that was stored."""
    content = json.loads(text)
    layout = Layout(
        sites=tuple(_record(WatchedSite, site) for site in content["sites"]),
        parameters=tuple(_record(WatchedParameter, one) for one in content["parameters"]),
    )
    measures = content["measures"]
    return StoredLayout(
        layout, _columns(layout, measures["step"], measures["site"], measures["parameter"])
    )


def columns_of(layout: Layout) -> Columns:
    """What each column of a row of this version is."""
    return _columns(layout, STEP_MEASURES, SITE_MEASURES, PARAMETER_MEASURES)


def sources(old: Columns, new: Columns) -> np.ndarray | None:
    """Where each of the new columns stands among the old ones.

    Returns:
        int64 of shape ``(len(new),)``, -1 where it is missing; None if all stand where they stood.
    """
    if old == new:
        return None
    place = {column: index for index, column in enumerate(old)}
    return np.array([place.get(column, -1) for column in new], np.int64)


def moved(values: np.ndarray, source: np.ndarray | None) -> np.ndarray:
    """Rows ``(n, old)`` with their numbers where ``sources`` says, NaN where they have none."""
    if source is None:
        return values
    found = np.full((len(values), len(source)), np.nan, np.float32)
    has = source >= 0
    found[:, has] = values[:, source[has]]
    return found


def info_from(text: str) -> RunInfo:
    """What is known of a run."""
    return _record(RunInfo, json.loads(text))


def alert_from(text: str, closed: int | None) -> Alert:
    """An alert; where it closed is stored beside it."""
    content = json.loads(text)
    severity = Severity(content.pop("severity"))
    return _record(Alert, {**content, "severity": severity, "closed": closed})


def _columns(
    layout: Layout, step: tuple[str, ...], site: tuple[str, ...], parameter: tuple[str, ...]
) -> Columns:
    return (
        *(("step", "", measure) for measure in step),
        *(("site", one.name, measure) for one in layout.sites for measure in site),
        *(("parameter", one.name, measure) for one in layout.parameters for measure in parameter),
    )


def _record(kind: type[_Record], content: Mapping[str, Any]) -> _Record:
    """A record of what it has fields for; lists become tuples."""
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
            if name in known
        }
    )


def _plain(value: object) -> object:
    """A number of NumPy as Python's, a path or whatever else as its text."""
    return value.item() if isinstance(value, np.generic) else str(value)
