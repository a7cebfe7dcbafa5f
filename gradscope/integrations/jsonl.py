"""Samples and findings as lines of JSON: for whoever reads them with tools of their own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt

from gradscope.integrations.sink import Sink
from gradscope.training import PARAMETER_MEASURES, SITE_MEASURES, STEP_MEASURES, Alert

if TYPE_CHECKING:
    from gradscope.monitor import Sampled

__all__ = ["JSONL"]


class JSONL(Sink):
    """Appends one object for each sample and each finding to a file, and flushes it.

    A sample holds all that was measured: ``kind`` ("sample"), ``step``, the measures of the step,
    ``losses`` (of all steps since the sample before), ``sites`` and ``parameters`` (measures by
    name). A finding holds ``kind`` ("finding") and what an `Alert` does. A number that was not
    measured is null, an infinite one the text "Infinity" or "-Infinity".
    """

    def __init__(self, path: str | Path) -> None:
        """The file, and its folder, are made for the first line; what is in it already stays."""
        super().__init__()
        self.path = Path(path)
        self._file: TextIO | None = None

    def take(self, sampled: Sampled) -> None:
        layout, row = sampled.layout, sampled.row.astype(np.float64)
        step, sites = len(STEP_MEASURES), layout.first_parameter
        self._write(
            {
                "kind": "sample",
                "step": sampled.step,
                **_numbers(STEP_MEASURES, row[:step]),
                "losses": [_number(loss) for loss in sampled.losses.tolist()],
                "sites": _table(layout.sites, SITE_MEASURES, row[step:sites]),
                "parameters": _table(layout.parameters, PARAMETER_MEASURES, row[sites:]),
            }
        )

    def take_finding(self, alert: Alert) -> None:
        self._write(
            {
                "kind": "finding",
                "step": alert.step,
                "closed": alert.closed,
                "code": alert.code,
                "name": alert.name,
                "severity": alert.severity.value,
                "sites": alert.sites,
                "message": alert.message,
                "values": {name: _number(value) for name, value in alert.values.items()},
                "cause": alert.cause,
            }
        )

    def finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _numbers(
    measures: tuple[str, ...], row: npt.NDArray[np.float64]
) -> dict[str, float | str | None]:
    return dict(zip(measures, map(_number, row.tolist()), strict=True))


def _table(named: tuple[Any, ...], measures: tuple[str, ...], row: npt.NDArray[np.float64]) -> Any:
    rows = row.reshape(len(named), len(measures))
    return {it.name: _numbers(measures, values) for it, values in zip(named, rows, strict=True)}
