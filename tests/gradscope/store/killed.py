"""A process that writes a run as fast as trainings get, until it is killed.

    python killed.py STORE STEPS_PER_SECOND

It prints each step and the time at which it was told to the store, as 16 bytes: int64, float64.
"""

from __future__ import annotations

import os
import struct
import sys
import time

import numpy as np

from gradscope.store import RunWriter
from gradscope.training import Layout, RunInfo, WatchedParameter, WatchedSite

SITES, PARAMETERS = 20, 40


def main(store: str, rate: float) -> None:
    layout = Layout(
        tuple(WatchedSite(f"{n}", "activation", "relu", (4, 8), 1) for n in range(SITES)),
        tuple(WatchedParameter(f"{n}.weight", (8, 8)) for n in range(PARAMETERS)),
    )

    def warn(message: str) -> None:
        sys.exit(message)

    writer = RunWriter(store, RunInfo("MLP", 1), warn=warn)
    writer.layout(layout)
    start, step = time.monotonic(), writer.first_step
    first = step
    while True:
        # Several steps at a time where the system's clock is coarse or the process was held up.
        due = first + int((time.monotonic() - start) * rate)
        while step < due:
            writer.sample(step, np.full(layout.columns, step, np.float32))
            writer.losses(step, np.array([step], np.float32))
            os.write(1, struct.pack("qd", step, time.time()))
            step += 1
        time.sleep(0.0005)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
