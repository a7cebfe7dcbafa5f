"""The monitor as a callback of the Hugging Face Trainer.

from gradscope.integrations.transformers import MonitorCallback

Trainer(model, args, callbacks=[MonitorCallback()], ...).train()

Trainers derived from it, such as TRL's, are monitored in the same way.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gradscope.integrations.driver import Driver
from gradscope.integrations.needed import needed
from gradscope.monitor import Monitor

__all__ = ["MonitorCallback"]

needed("accelerate", "transformers")  # which Trainer asks for only when it is used
_TrainerCallback: Any = needed("transformers", "transformers").TrainerCallback


class MonitorCallback(_TrainerCallback):  # type: ignore[misc]
    """Monitors what ``Trainer.train`` trains.

    A step of the monitor is one of the trainer's: one update, whatever number of batches it is
    accumulated from. Its loss is that which was minimised. Evaluation is not monitored.

    A training that is resumed from a checkpoint goes on at that checkpoint's step, in the store in
    ``output_dir``.

    Callbacks are not told when a training fails. What is raised while the loss and the gradient of
    a batch are computed closes the store all the same; use the callback as a context manager to
    have it closed in any case.

        with MonitorCallback() as callback:
            Trainer(model, args, callbacks=[callback], ...).train()

    Attributes:
        monitor: of the training that runs, or ran last; None before.
    """

    def __init__(self, store: str | Path | None = "run.gradscope", **options: Any) -> None:
        """``store`` and ``options`` are those of `gradscope.Monitor`.

        A store without a folder is put in the trainer's ``output_dir``.
        """
        self._driver = Driver(store, options)
        self._trainer: Any = None

    @property
    def monitor(self) -> Monitor | None:
        return self._driver.monitor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._end("interrupted" if kind is None else kind.__name__)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any
    ) -> None:
        self._end("interrupted")
        self._driver.begin(
            model,
            [getattr(optimizer, "optimizer", optimizer)],  # accelerate wraps it
            folder=args.output_dir,
            first_step=state.global_step,
            scaler=getattr(optimizer, "scaler", None),
        )
        self._trainer = _trainer_above()
        if self._trainer is not None:
            self._trainer.training_step = self._heard(self._trainer.training_step)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._driver.step(self._driver.losses.take())

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self._driver.epoch()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._end()

    def _heard(self, training_step: Any) -> Any:
        """``Trainer.training_step``, whose result is the one place where a batch's loss is told."""

        @functools.wraps(training_step)
        def heard(*args: Any, **kwargs: Any) -> Any:
            try:
                loss = training_step(*args, **kwargs)
            except BaseException as error:
                self._driver.end(type(error).__name__)
                raise
            self._driver.losses.add(loss)
            return loss

        return heard

    def _end(self, ended: str = "") -> None:
        if self._trainer is not None:
            vars(self._trainer).pop("training_step", None)
            self._trainer = None
        self._driver.end(ended)


def _trainer_above() -> Any:
    """The Trainer that calls: callbacks are given neither it nor the loss."""
    trainer_class = needed("transformers", "transformers").Trainer
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, trainer_class):
            return caller
        frame = frame.f_back
    return None
