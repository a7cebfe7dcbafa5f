"""Samples and findings in a run of Weights & Biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradscope.errors import UsageError
from gradscope.integrations.needed import needed
from gradscope.integrations.sink import Sink, told
from gradscope.severity import Severity
from gradscope.training import Alert

if TYPE_CHECKING:
    from gradscope.monitor import Sampled

__all__ = ["WandB"]

_LEVELS = {Severity.ERROR: "ERROR", Severity.WARNING: "WARN", Severity.INFO: "INFO"}


class WandB(Sink):
    """Logs samples to a run, and findings as alerts and in its summary.

    Samples are drawn over ``gradscope/step``, the step of the monitor: a run has one step for all
    who log to it, and it must never go back. Each sample is one ``run.log`` without a step, so the
    run's own step goes up by at most one for each update of the model. A loop that itself logs
    with ``step=`` something slower, epochs say, would have its rows refused: let it leave out
    ``step=`` and use ``define_metric``, or give the sink a run of its own.
    """

    def __init__(self, run: Any = None, **chosen: Any) -> None:
        """Begins to log.

        Args:
            run: what ``wandb.init`` returned; the one that is active where none is given. It stays
                the caller's to finish.
            chosen: as of `Sink`.

        Raises:
            UsageError: No run is given or active, or wandb is not installed.
        """
        super().__init__(**chosen)
        self.run = needed("wandb", "wandb").run if run is None else run
        if self.run is None:
            raise UsageError("no run of wandb is active: call wandb.init() before WandB()")
        self.run.define_metric("gradscope/step", hidden=True)
        self.run.define_metric("gradscope/*", step_metric="gradscope/step")

    def take(self, sampled: Sampled) -> None:
        self.run.log({"gradscope/step": sampled.step, **self.scalars(sampled)})

    def take_finding(self, alert: Alert) -> None:
        self.run.summary[f"gradscope/findings/{alert.code}@{alert.step}"] = told(alert)
        if alert.closed is None:
            title = f"{alert.code} {alert.name}"
            self.run.alert(title=title, text=told(alert), level=_LEVELS[alert.severity])

    def finish(self) -> None:
        """The run is the caller's."""
