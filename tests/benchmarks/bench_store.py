"""What a run store costs: its size, and the time it takes to write and to read.

A day's run is made up: 1e6 steps of a model of 200 sites and 400 parameters, 2,205 numbers a
sample, with a loss for every step.

- default: a sample of each 100th step, as a monitor takes them.
- every step: a sample of each, which is what the retention is for, of as many steps as
  ``--samples`` says. All 1e6 take some minutes.

Rows are written as fast as the store takes them. "training thread" is the time that its calls take
of the run, for each sample and for each piece of losses: copying and queueing, no more. The other
times are of a run that has ended, medians of five, whose file lies in the system's memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from gradscope.store import RunWriter, open_run
from gradscope.training import Layout, RunInfo, WatchedParameter, WatchedSite

SITES, PARAMETERS, BINS, ROUNDS = 200, 400, 400, 5

EVERY = 100
"""Steps between samples by default."""

WAITING = 512
"""Rows after which the benchmark waits, so that the queue drops none."""

LAYOUT = Layout(
    tuple(
        WatchedSite(f"blocks.{n}.act", "activation", "relu", (32, 512, 768), 2, depth=n)
        for n in range(SITES)
    ),
    tuple(WatchedParameter(f"blocks.{n // 2}.{n % 2}.weight", (768,)) for n in range(PARAMETERS)),
)


def write(path: Path, steps: int, every: int) -> tuple[float, float]:
    """Writes a run; seconds in all, and seconds that the calls of the training thread took."""
    generator = np.random.default_rng(0)
    rows = generator.lognormal(size=(64, LAYOUT.columns)).astype(np.float32)
    losses = generator.lognormal(size=every).astype(np.float32)
    writer = RunWriter(path, RunInfo("Transformer", 10**8), warn=print)
    begun = time.perf_counter()
    calls = 0.0
    writer.layout(LAYOUT)
    for index, step in enumerate(range(0, steps, every)):
        rows[index % 64, 0] = step
        before = time.perf_counter()
        writer.sample(step, rows[index % 64])
        writer.losses(step, losses)
        calls += time.perf_counter() - before
        if index % WAITING == WAITING - 1 and not writer.flush(600):
            raise RuntimeError("the store took more than ten minutes for a batch")
    writer.close(600)
    if writer.dropped:
        raise RuntimeError(f"{writer.dropped} items were dropped")
    return time.perf_counter() - begun, calls


def read(path: Path, steps: int) -> None:
    """Prints the times of what the live view and the report ask for."""

    def opened() -> None:
        with open_run(path) as run:
            _ = run.info, run.layout, run.last_step, run.alerts, run.events

    with open_run(path) as run:
        rows = run.rows()[0]
        print(f"  {len(rows)} rows, {len(run.losses()[0])} losses; last step {run.last_step}")
        if run.last_step != steps - 1:
            raise RuntimeError(f"the last step is {run.last_step}")
        name = LAYOUT.sites[SITES // 2].name
        questions: dict[str, Callable[[], object]] = {
            "open, with info, layout, alerts": opened,
            f"losses in {BINS} bins": lambda: run.losses(BINS),
            f"one site's history ({name})": lambda: run.site("backward_rms")[1][:, SITES // 2],
            f"all sites in {BINS} bins": lambda: run.site("backward_rms", bins=BINS),
            f"all columns in {BINS} bins": lambda: run.rows(bins=BINS),
        }
        for question, ask in questions.items():
            times = []
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                ask()
                times.append(time.perf_counter() - begun)
            print(f"  {question}: {statistics.median(times) * 1e3:.0f} ms")


def measure(name: str, steps: int, every: int, folder: Path) -> None:
    path = folder / f"{every}.gradscope"
    samples = len(range(0, steps, every))
    told = samples * LAYOUT.columns * 4 + steps * 4
    print(f"{name}: {steps:,} steps, {samples:,} samples of {LAYOUT.columns:,} numbers")
    seconds, calls = write(path, steps, every)
    size = path.stat().st_size
    print(
        f"  written in {seconds:.1f} s ({samples / seconds:,.0f} samples a second); "
        f"training thread {calls / samples * 1e6:.0f} µs a sample"
    )
    print(f"  {size / 1e6:.0f} MB, of {told / 1e6:,.0f} MB that it was told")
    read(path, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument(
        "--samples", type=int, default=100_000, help="of the run that is sampled at every step"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure("default", options.steps - options.steps % EVERY, EVERY, Path(folder))
        measure("every step", options.samples, 1, Path(folder))


if __name__ == "__main__":
    main()
