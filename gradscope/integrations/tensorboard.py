"""Samples and findings as scalars and text of TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradscope.integrations.needed import needed
from gradscope.integrations.sink import Sink, told
from gradscope.training import Alert

if TYPE_CHECKING:
    from gradscope.monitor import Sampled

__all__ = ["TensorBoard"]


class TensorBoard(Sink):
    """Writes to a ``SummaryWriter``, at the steps of the monitor."""

    def __init__(self, writer: Any, **chosen: Any) -> None:
        """Begins to write.

        Args:
            writer: a ``torch.utils.tensorboard.SummaryWriter``, which stays the caller's to close,
                or the folder for a new one.
            chosen: as of `Sink`.

        Raises:
            UsageError: A folder is given and tensorboard is not installed.
        """
        super().__init__(**chosen)
        self._folder: str | None = None
        self._writer = writer
        if isinstance(writer, str | Path):
            needed("tensorboard", "tensorboard")
            self._folder, self._writer = str(writer), None

    @property
    def writer(self) -> Any:
        """That which is written to; one of the sink's own is made when it is first needed."""
        if self._writer is None:
            module = needed("torch.utils.tensorboard", "tensorboard")
            self._writer = module.SummaryWriter(self._folder)
        return self._writer

    def take(self, sampled: Sampled) -> None:
        for name, value in self.scalars(sampled).items():
            self.writer.add_scalar(name, value, sampled.step)

    def take_finding(self, alert: Alert) -> None:
        step = alert.step if alert.closed is None else alert.closed
        self.writer.add_text("gradscope/findings", told(alert), step)

    def finish(self) -> None:
        if self._folder is None:
            self._writer.flush()
        elif self._writer is not None:
            self._writer.close()
