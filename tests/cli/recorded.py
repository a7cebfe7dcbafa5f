"""A made-up training run in a store: its first layers' signal vanishes and their units die."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gradscope.severity import Severity
from gradscope.store import RunWriter
from gradscope.training import Alert, Layout, RunInfo, WatchedParameter, WatchedSite

EVERY = 10
INFO = RunInfo(
    "Net",
    5_320,
    optimizers=("Adam",),
    epsilon=1e-8,
    every=EVERY,
    environment={"torch": "2.9.0"},
    command=("python", "train.py"),
)
DYING = Alert(
    "GS101",
    "vanishing-gradient",
    Severity.ERROR,
    ("0.relu", "1.relu"),
    "the backward signal falls to 1e-8",
    {"attenuation": 1e-8},
    None,
    400,
    limits={"attenuation": 1e-5},
    remedies=("skip-connection",),
)


def layout(layers: int) -> Layout:
    sites = []
    for layer in range(layers):
        linear = WatchedSite(f"{layer}.linear", "layer", "Linear", (64, 16), 1, depth=2 * layer)
        relu = WatchedSite(
            f"{layer}.relu", "activation", "ReLU", (64, 16), 1, depth=2 * layer + 1, dead_zone=True
        )
        sites += [linear, relu]
    parameters = [
        WatchedParameter(f"{layer}.linear.{name}", shape)
        for layer in range(layers)
        for name, shape in (("weight", (16, 16)), ("bias", (16,)))
    ]
    return Layout(tuple(sites), tuple(parameters))


class Training:
    """A run that goes on when it is told to.

    Attributes:
        writer: of the store.
        step: the next one.
    """

    def __init__(self, path: Path, layers: int = 4, end: int = 1000) -> None:
        self.warned: list[str] = []
        self.writer = RunWriter(path, INFO, warn=self.warned.append)
        self.layout = layout(layers)
        self.writer.layout(self.layout)
        self.step = self.writer.first_step
        self._end = end

    def train(self, steps: int) -> None:
        """So many steps, of which every tenth is sampled; what there is then is in the store."""
        for _ in range(steps):
            done = self.step / self._end
            loss = np.float32(2.3 * np.exp(-3 * done))
            self.writer.losses(self.step, np.array([loss]))
            if self.step % EVERY == EVERY - 1:
                self.writer.sample(self.step, self._row(float(loss), done))
            self.step += 1
            if self.step % 200 == 0:
                # No training is as fast as this: what waits must not become too much.
                self.writer.flush(30.0)
        assert self.writer.flush(30.0)

    def _row(self, loss: float, done: float) -> np.ndarray:
        row = np.full(self.layout.columns, np.nan, np.float32)
        row[:5] = (loss, 2.0, 1.0, 1e-3, 0.02)
        sites = len(self.layout.sites)
        for at, site in enumerate(self.layout.sites):
            depth = at / (sites - 1)
            row[self.layout.site_column(at, "forward_rms")] = 0.5
            row[self.layout.site_column(at, "backward_rms")] = 0.1 * 10 ** (-7 * done * (1 - depth))
            if site.dead_zone:
                row[self.layout.site_column(at, "dead")] = 0.8 * done * (1 - depth)
        for at in range(len(self.layout.parameters)):
            row[self.layout.parameter_column(at, "gradient_norm")] = 0.1
            row[self.layout.parameter_column(at, "weight_norm")] = 4.0
            row[self.layout.parameter_column(at, "update_norm")] = 0.004
        return row

    def close(self, ended: str = "") -> None:
        self.writer.close(ended=ended)
        assert self.warned == []


def recorded(
    path: Path, steps: int = 1000, *, layers: int = 4, alerts: Sequence[Alert] = (DYING,)
) -> Path:
    """A run that is over."""
    training = Training(path, layers, steps)
    training.train(steps)
    for alert in alerts:
        training.writer.alert(alert)
    training.writer.event(500, "epoch", {"loss": 0.5, "shares": [1, 2]})
    training.close()
    return path
