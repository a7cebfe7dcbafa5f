"""Opens, steps and closes a monitor for a trainer that drives the training itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.store.opening import numbered

if TYPE_CHECKING:
    from gradscope.monitor import Monitor

__all__ = ["Driver", "Losses", "place"]


def place(store: str | Path, folder: str | Path | None) -> Path:
    """Where a store of that name stands: a bare name in the trainer's folder, a path as it is.

    A folder that is no local one, ``s3://…``, holds no store: that is the working directory's.
    """
    path = Path(store)
    if folder is None or "://" in str(folder) or path.name != str(path):
        return path
    return Path(folder) / path


def _version(path: Path, resumed: bool) -> Path:
    """Of ``run``, ``run-2``, ``run-3`` … the newest for a resumed run, a new one for others."""
    for name, following in pairwise(numbered(path)):
        if not name.exists() or (resumed and not following.exists()):
            return name
    raise AssertionError  # the names do not end


class Losses:
    """Adds up the losses of the batches that one update is made from, on their device."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None
        self.count = 0

    def add(self, loss: Any) -> None:
        """Takes the loss of a batch, a tensor of one element; anything else is none."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return
        with torch.no_grad():
            # Out of place and never the tensor itself, which a scaler or the user may change.
            loss = loss.detach().reshape(())
            self.sum = loss.clone() if self.sum is None else self.sum + loss
        self.count += 1

    def take(self, *, mean: bool = False) -> Tensor | None:
        """The sum, or the mean, since it was last taken; None where there was no loss."""
        total, number = self.sum, self.count
        self.sum, self.count = None, 0
        return total / number if mean and total is not None else total


class Driver:
    """A monitor that a trainer's events open, step and close.

    Attributes:
        monitor: while a training runs, and after it until the next begins.
        losses: of the update that is being gathered.
    """

    def __init__(self, store: str | Path | None, options: dict[str, Any]) -> None:
        self.store, self.options = store, options
        self.monitor: Monitor | None = None
        self.losses = Losses()
        self._open = False

    def begin(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        folder: str | Path | None,
        first_step: int,
        scaler: Any = None,
    ) -> None:
        """Opens a monitor for a training that begins, or goes on, at that step.

        A training that goes on continues the newest store in its folder; one that begins at step 0
        gets a new one, so that no earlier run is overwritten.
        """
        from gradscope.monitor import Monitor

        self.end("interrupted")
        path = None
        if self.store is not None:
            path = _version(place(self.store, folder), resumed=first_step > 0)
        self.losses = Losses()
        self.monitor = Monitor(
            model, optimizers, store=path, scaler=scaler, first_step=first_step, **self.options
        )
        self._open = True

    def step(self, loss: Tensor | None) -> None:
        """An update has been made."""
        if self.monitor is not None and self._open:
            self.monitor.step(loss)

    def epoch(self) -> None:
        if self.monitor is not None and self._open:
            self.monitor.epoch()

    def end(self, ended: str = "") -> None:
        """Closes the monitor if it is open; why, where the training did not come to its end."""
        if self.monitor is not None and self._open:
            self._open = False
            self.monitor.close(ended)
