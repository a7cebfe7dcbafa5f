"""The monitor as a callback of Lightning's Trainer.

    from gradscope.integrations.lightning import MonitorCallback

    Trainer(callbacks=[MonitorCallback()]).fit(model)

Both packages are known, ``lightning`` and ``pytorch_lightning``: that which is already imported is
taken, else that which is installed.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from gradscope.integrations.driver import Driver
from gradscope.integrations.needed import needed
from gradscope.monitor import Monitor

__all__ = ["MonitorCallback"]


def _callback() -> Any:
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in names:
        if sys.modules.get(name) is not None:
            return sys.modules[name].Callback
    name = names[0] if find_spec("lightning") is not None else names[1]
    return needed(name, "lightning").Callback


_Callback: Any = _callback()


class MonitorCallback(_Callback):  # type: ignore[misc]
    """Monitors what ``Trainer.fit`` trains.

    A step of the monitor is a training batch at whose end an optimizer has stepped: with gradients
    accumulated over four batches every fourth one, with several optimizers in manual optimisation
    one for all of them. Its loss is that which was minimised: the sum over the batches of an
    accumulation, each divided by their number, as Lightning does; in manual optimisation the sum
    of what ``manual_backward`` was given. Validation is not monitored.

    A checkpoint keeps the number of steps. A training that is resumed from one goes on at that
    step, in the store that is in the trainer's log folder if there is one: loggers that begin a
    new ``version_`` folder begin a new store in it.

    Attributes:
        monitor: of the training that runs, or ran last; None before.
    """

    def __init__(self, store: str | Path | None = "run.gradscope", **options: Any) -> None:
        """``store`` and ``options`` are those of `gradscope.Monitor`.

        A store without a folder is put in the trainer's log folder.
        """
        self._driver = Driver(store, options)
        self._steps = 0
        self._before = 0
        self._known = False

    @property
    def monitor(self) -> Monitor | None:
        return self._driver.monitor

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 0:
            self._steps = 0
        elif not self._known:  # trained without this callback until now
            self._steps = trainer.global_step
        self._known = True
        self._driver.begin(
            pl_module,
            trainer.optimizers,
            folder=trainer.log_dir or trainer.default_root_dir,
            first_step=self._steps,
            scaler=getattr(trainer.precision_plugin, "scaler", None),
        )

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self._before = trainer.global_step

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        # With a scaler the loss that comes here is scaled.
        if not pl_module.automatic_optimization and not self._is_scaled(trainer):
            self._driver.losses.add(loss)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        if pl_module.automatic_optimization or self._is_scaled(trainer):
            self._driver.losses.add(outputs.get("loss") if isinstance(outputs, dict) else outputs)
        if trainer.global_step != self._before:
            self._steps += 1
            self._driver.step(self._driver.losses.take())

    def on_train_epoch_end(self, *_: Any) -> None:
        self._driver.epoch()

    def on_train_end(self, *_: Any) -> None:
        self._driver.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._driver.end(type(exception).__name__)

    def teardown(self, *_: Any, **__: Any) -> None:
        self._driver.end("interrupted")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._steps = int(state_dict["steps"])
        self._known = True

    @staticmethod
    def _is_scaled(trainer: Any) -> bool:
        return getattr(trainer.precision_plugin, "scaler", None) is not None
