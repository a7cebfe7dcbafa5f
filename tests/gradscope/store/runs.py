"""A made-up run: what a monitor would have to say of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gradscope.severity import Severity
from gradscope.store import Keep, RunWriter
from gradscope.training import (
    SITE_MEASURES,
    STEP_MEASURES,
    Alert,
    Layout,
    RunInfo,
    WatchedParameter,
    WatchedSite,
)

INFO = RunInfo(
    "MLP",
    1234,
    optimizers=("Adam",),
    epsilon=1e-8,
    environment={"torch": "2"},
    command=("python", "train.py"),
)


def layout(sites: int = 3, parameters: int = 4, *, prefix: str = "") -> Layout:
    return Layout(
        tuple(
            WatchedSite(
                f"{prefix}{n}.act", "activation", "relu", (4, 8), 1, depth=n, dead_zone=True
            )
            for n in range(sites)
        ),
        tuple(WatchedParameter(f"{prefix}{n}.weight", (8, 8)) for n in range(parameters)),
    )


def row(layout: Layout, step: int) -> np.ndarray:
    """Each number tells the step, and by a fraction its column."""
    return np.float32(step) + np.arange(layout.columns, dtype=np.float32) / 1024


def alert(code: str = "GS001", step: int = 3, closed: int | None = None) -> Alert:
    return Alert(
        code,
        "vanishing-gradient",
        Severity.ERROR,
        ("0.act", "1.act"),
        "The gradient vanishes.",
        {"ratio": 1e-6, "worst": float("inf")},
        None,
        step,
        closed,
        {"ratio": 1e-3},
        ("norm-insertion",),
    )


class Warned(list[str]):
    """What a writer warned of; warnings are appended."""

    def __call__(self, message: str) -> None:
        self.append(message)


def write(
    path: Path,
    steps: range,
    *,
    keep: Keep | None = None,
    of: Layout | None = None,
    first_step: int | None = None,
    ended: str = "",
) -> RunWriter:
    """Writes a session of samples and losses at every step, and closes it."""
    warned = Warned()
    writer = RunWriter(path, INFO, keep=keep, warn=warned, first_step=first_step)
    record(writer, of or layout(), steps)
    writer.close(30.0, ended)
    assert warned == []
    assert writer.dropped == 0
    return writer


def record(writer: RunWriter, of: Layout, steps: range) -> None:
    """Gives a writer a sample and a loss of each step, no faster than it takes them."""
    writer.layout(of)
    for step in steps:
        writer.sample(step, row(of, step))
        writer.losses(step, np.array([step], np.float32))
        if step % 200 == 199:
            assert writer.flush(30.0)


SITE_COLUMN = len(STEP_MEASURES) + SITE_MEASURES.index("dead")
