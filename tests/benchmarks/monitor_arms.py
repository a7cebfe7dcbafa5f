"""What ``bench_monitor.py`` compares: gradscope's monitor, and other ways to watch a training."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monitor_meter import Meter, watch_modes
from monitor_workloads import Training, Workload
from torch import Tensor, nn
from torch.optim import Optimizer


class Watcher(ABC):
    """Code that watches one training.

    Args:
        meter: of the time inside that code, which all that it registers is wrapped with.

    Attributes:
        says: whether the code keeps account of its own time, see ``spent``.
    """

    says = False

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    @property
    def spent(self) -> float:
        """Seconds inside, by its own account."""
        return 0.0

    @abstractmethod
    def step(self, loss: Tensor) -> None:
        """After the optimizer's step."""

    @abstractmethod
    def close(self) -> None:
        """Takes everything off."""


class Nobody(Watcher):
    """The A/A control."""

    def __init__(self, meter: Meter, training: Training, folder: Path) -> None:
        super().__init__(meter)

    def step(self, loss: Tensor) -> None:
        pass

    def close(self) -> None:
        pass


class Gradscope(Watcher):
    says = True

    def __init__(self, meter: Meter, training: Training, folder: Path, **arguments: Any) -> None:
        super().__init__(meter)
        from gradscope.monitor import Monitor

        watch_modes("gradscope")
        self._monitor = Monitor(
            training.model, training.optimizer, store=folder / "run.gradscope", **arguments
        )

    @property
    def spent(self) -> float:
        return float(self._monitor.spent)

    def step(self, loss: Tensor) -> None:
        with self.meter:
            self._monitor.step(loss)

    def close(self) -> None:
        if not self._monitor.enabled:
            raise RuntimeError("the monitor has disabled itself")
        self._monitor.close()


class NaiveHooks(Watcher):
    """Of each leaf module's output mean, deviation, share of zeros, and its gradient's norm, each
    read by ``.item()``."""

    def __init__(self, meter: Meter, training: Training, folder: Path) -> None:
        super().__init__(meter)
        self._numbers: list[dict[str, float]] = [{}]
        self._handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in training.model.named_modules()
            if not list(module.children())
        ]

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def see(module: nn.Module, args: Any, y: Tensor) -> None:
            numbers, x = self._numbers[-1], y.detach()
            numbers[f"{name} mean"] = x.mean().item()
            numbers[f"{name} std"] = x.std().item()
            numbers[f"{name} zeros"] = (x == 0).float().mean().item()
            y.register_hook(see_gradient)

        def see_gradient(gradient: Tensor) -> None:
            self._numbers[-1][f"{name} gradient"] = gradient.norm().item()

        return see

    def step(self, loss: Tensor) -> None:
        with self.meter:
            self._numbers[-1]["loss"] = loss.item()
            self._numbers.append({})

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


class GradientNorms(Watcher):
    """Norms of parameters' gradients before each update, as Lightning's ``grad_norm`` has them."""

    def __init__(self, meter: Meter, training: Training, folder: Path) -> None:
        super().__init__(meter)
        self._model = training.model
        self._norms: dict[str, Tensor] = {}
        self._handle = training.optimizer.register_step_pre_hook(self._before)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        norms = {
            f"grad_2.0_norm/{name}": parameter.grad.data.norm(2.0)
            for name, parameter in self._model.named_parameters()
            if parameter.grad is not None
        }
        total = torch.tensor(list(norms.values())).norm(2.0)
        self._norms = {**norms, "grad_2.0_norm_total": total}

    def step(self, loss: Tensor) -> None:
        with self.meter:
            {name: norm.item() for name, norm in self._norms.items()}

    def close(self) -> None:
        self._handle.remove()


class Wandb(Watcher):
    """``watch(log="all")`` in a run that is never online.

    What it has gathered is written by the run's ``log``, which is called, with the loss, at those
    steps alone: its own cost at each step is not that of watching.
    """

    def __init__(self, meter: Meter, training: Training, folder: Path, log_freq: int) -> None:
        super().__init__(meter)
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(mode="offline", dir=folder, project="bench", settings=settings)
        self._model = training.model
        self._run.watch(self._model, log="all", log_freq=log_freq)
        self._log_freq, self._steps = log_freq, 0

    def step(self, loss: Tensor) -> None:
        self._steps += 1
        if self._steps % self._log_freq == 0:
            with self.meter:
                self._run.log({"loss": loss.item()})

    def close(self) -> None:
        self._run.unwatch(self._model)
        self._run.finish()


class TensorBoard(Watcher):
    """Histograms of weights and gradients, and the loss, at each step."""

    def __init__(self, meter: Meter, training: Training, folder: Path) -> None:
        super().__init__(meter)
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder)
        self._training = training

    def step(self, loss: Tensor) -> None:
        with self.meter:
            step = self._training.steps
            self._writer.add_scalar("loss", loss.item(), step)
            for name, parameter in self._training.model.named_parameters():
                self._writer.add_histogram(name, parameter, step)
                if parameter.grad is not None:
                    self._writer.add_histogram(f"{name}.grad", parameter.grad, step)

    def close(self) -> None:
        self._writer.close()


class Torchmortem(Watcher):
    """Everything it collects by itself; the report is left out."""

    def __init__(self, meter: Meter, training: Training, folder: Path) -> None:
        super().__init__(meter)
        from torchmortem import Autopsy
        from torchmortem.types import SamplingConfig

        sampling = SamplingConfig(default_interval=2, expensive_interval=4)
        self._autopsy = Autopsy(training.model, training.optimizer, sampling=sampling)
        self._autopsy.attach()

    def step(self, loss: Tensor) -> None:
        with self.meter:
            self._autopsy.step(loss=loss.item())

    def close(self) -> None:
        self._autopsy.detach()


Attach = Callable[[Meter, Training, Path], Watcher]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        weights: how often it takes a step like that at each position of the arm's cycle.
        share: what the share of the time inside may be, in per cent, or None.
        memory: what the ratio of peak memory may be, or None.
    """

    title: str
    weights: Sequence[float] = (1.0,)
    share: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Arm:
    """What is measured, in steps that repeat in cycles as long as the weights of its rows.

    Attributes:
        needs: package that has to be installed.
    """

    attach: Attach
    rows: Sequence[Row]
    needs: str = "gradscope"

    @property
    def cycle(self) -> int:
        return len(self.rows[0].weights)


def _gradscope(**arguments: Any) -> Attach:
    return functools.partial(Gradscope, **arguments)


def _one_in(n: int) -> list[float]:
    """Of the monitor's cycle of four: the sampled step, the one after it, which may have work left
    to do, an ordinary one, and the one that prepares the next sample."""
    return [1 / n, 1 / n, (n - 3) / n, 1 / n]


def _last_of(n: int, cycle: int) -> list[float]:
    """Of wandb's cycle: the step that it logs is the last, and half of the others still carry what
    its threads have to do; the rest are ordinary."""
    ordinary = cycle // 2 - 1
    after = cycle - 1 - ordinary
    return [1 / n] * after + [(n - after - 1) / ordinary / n] * ordinary + [1 / n]


def _preset(cheap: int, dear: int) -> list[float]:
    """Of torchmortem's cycle of four: a step that takes everything, and one that takes what is
    cheap, the other two nothing; a preset says at which of its steps it takes them."""
    return [1 / dear, (1 - 1 / cheap) / 2, 1 / cheap - 1 / dear, (1 - 1 / cheap) / 2]


def arms(name: str, workload: Workload) -> dict[str, Arm]:
    """All of a workload, by the names that ``--arms`` takes."""
    tiny = name == "tiny"
    by_default, tenth = "gradscope by default", "gradscope, every 10th step"
    goals = {"share": 1.0, "memory": 1.05}
    if workload.whole:
        sampling = {
            "default": Arm(_gradscope(), [Row(by_default, [1 / 100] * 100, **goals)]),
            "tenth": Arm(
                _gradscope(every=10, overhead=None),
                [Row(tenth, [1 / 10] * 10, share=8.0 if tiny else 2.0)],
            ),
        }
    else:
        rows = [Row(by_default, _one_in(100), **goals), Row(tenth, _one_in(10), share=2.0)]
        sampling = {"sampling": Arm(_gradscope(every=4, dense=1, overhead=None), rows)}
    every = {"every": 1, "overhead": None, "exact": True}
    logs = 20 if workload.whole else 4
    presets = {"thorough": (1, 20), "balanced": (1, 50), "fast": (5, 200)}
    return {
        "control": Arm(Nobody, [Row("A/A control")], "torch"),
        **sampling,
        "exact": Arm(
            _gradscope(**every, updates=False),
            [Row("gradscope, exact, every step", share=30.0 if tiny else 10.0)],
        ),
        "updates": Arm(_gradscope(**every, updates=True), [Row("  and updates", share=15.0)]),
        "naive": Arm(NaiveHooks, [Row("hooks with .item()")], "torch"),
        "norms": Arm(GradientNorms, [Row("gradient norms as Lightning's")], "torch"),
        "wandb": Arm(
            functools.partial(Wandb, log_freq=logs),
            [Row("wandb.watch(log='all')", _last_of(1000, logs))],
            "wandb",
        ),
        "wandb-every": Arm(
            functools.partial(Wandb, log_freq=1),
            [Row("wandb.watch(log='all', log_freq=1)")],
            "wandb",
        ),
        "tensorboard": Arm(TensorBoard, [Row("TensorBoard histograms")], "tensorboard"),
        "torchmortem": Arm(
            Torchmortem,
            [Row(f"torchmortem, {name}", _preset(*each)) for name, each in presets.items()],
            "torchmortem",
        ),
    }
