"""The monitor for a loop that is written with accelerate.

from gradscope.integrations.accelerate import AcceleratedMonitor

with AcceleratedMonitor(accelerator, model, optimizer) as monitor:
    for batch in loader:
        with accelerator.accumulate(model):
            loss = ...
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            monitor.step(loss)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.integrations.driver import Losses, place
from gradscope.integrations.needed import needed
from gradscope.monitor import Monitor

__all__ = ["AcceleratedMonitor"]


class AcceleratedMonitor:
    """A monitor of what an ``Accelerator`` has prepared.

    It is called once for each batch and counts the updates: a step of the monitor is a batch at
    which gradients are synchronised, its loss the mean of those that it was given since the last.

    It is registered for checkpointing: ``accelerator.save_state`` keeps the number of steps, and
    after ``accelerator.load_state`` the store goes on at that step.

    Attributes:
        monitor: that it drives.
    """

    def __init__(
        self,
        accelerator: Any,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        store: str | Path | None = "run.gradscope",
        **options: Any,
    ) -> None:
        """``store`` and ``options`` are those of `gradscope.Monitor`.

        A store without a folder is put in the accelerator's ``logging_dir`` or ``project_dir``.

        Raises:
            UsageError: accelerate is not installed.
        """
        needed("accelerate", "accelerate")
        self._accelerator = accelerator
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        path = None
        if store is not None:
            path = place(store, accelerator.logging_dir or accelerator.project_dir)
        self._arguments: dict[str, Any] = {
            "model": accelerator.unwrap_model(model),
            "optimizer": [getattr(wrapped, "optimizer", wrapped) for wrapped in optimizers],
            "store": path,
            "scaler": accelerator.scaler,
            **options,
        }
        self._losses = Losses()
        self.monitor = Monitor(**self._arguments)
        self._steps = self.monitor.steps  # its own count stands still once it has failed
        accelerator.register_for_checkpointing(self)

    def step(self, loss: Tensor | None = None) -> None:
        """After ``optimizer.step()`` of each batch, also of those whose gradient is kept."""
        self._losses.add(loss)
        if self._accelerator.sync_gradients:
            self._steps += 1
            self.monitor.step(self._losses.take(mean=True))

    def epoch(self, loss: float | None = None) -> None:
        """At the end of an epoch."""
        self.monitor.epoch(loss)

    def close(self, ended: str = "") -> None:
        """Closes the store; ``ended`` says why, where the training did not come to its end."""
        self.monitor.close(ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close("" if kind is None else kind.__name__)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.monitor.close()
        self._losses, self._steps = Losses(), int(state_dict["steps"])
        self.monitor = Monitor(**{**self._arguments, "first_step": self._steps})
