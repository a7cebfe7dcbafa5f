"""Samples and findings in a run of MLflow."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from gradscope.errors import UsageError
from gradscope.integrations.needed import needed
from gradscope.integrations.sink import Sink, told
from gradscope.training import Alert

if TYPE_CHECKING:
    from gradscope.monitor import Sampled

__all__ = ["MLflow"]

_REFUSED = re.compile(r"[^\w\-. /]")  # in names of metrics; ":" is refused on Windows
_LONGEST = 250  # characters in the name of a metric
_LARGEST = 1000  # metrics in one batch


class MLflow(Sink):
    """Logs samples as metrics of a run, and findings as its artifact ``gradscope/findings.txt``.

    Metrics are handed to MLflow's own thread, so that no server is waited for. In names of sites,
    characters that MLflow refuses become ``_``.
    """

    def __init__(self, run_id: str | None = None, client: Any = None, **chosen: Any) -> None:
        """Begins to log.

        Args:
            run_id: of the run; of the active one where none is given. It stays the caller's to end.
            client: an ``MlflowClient``; where none is given, one for the tracking URI that is set.
            chosen: as of `Sink`.

        Raises:
            UsageError: No run is given or active, or mlflow is not installed.
        """
        super().__init__(**chosen)
        mlflow = needed("mlflow", "mlflow")
        active = mlflow.active_run()
        if run_id is None and active is None:
            raise UsageError("no run of mlflow is active: call mlflow.start_run() before MLflow()")
        self.run_id = active.info.run_id if run_id is None else run_id
        self.client = mlflow.MlflowClient() if client is None else client
        self._metric = needed("mlflow.entities", "mlflow").Metric
        self._findings: dict[tuple[str, int], str] = {}
        self._logged: list[Any] = []

    def take(self, sampled: Sampled) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self._metric(_REFUSED.sub("_", name)[:_LONGEST], value, now, sampled.step)
            for name, value in self.scalars(sampled).items()
        ]
        for first in range(0, len(metrics), _LARGEST):
            batch = metrics[first : first + _LARGEST]
            logged = self.client.log_batch(self.run_id, metrics=batch, synchronous=False)
            self._logged.append(logged)

    def take_finding(self, alert: Alert) -> None:
        self._findings[alert.code, alert.step] = told(alert)
        text = "".join(f"{line}\n" for line in self._findings.values())
        self.client.log_text(self.run_id, text, "gradscope/findings.txt")

    def finish(self) -> None:
        # Several threads log them: the last may be there before one that was begun earlier.
        while self._logged:
            self._logged.pop().wait()
