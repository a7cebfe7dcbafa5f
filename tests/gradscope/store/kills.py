"""Kills a process that writes a run store, at random moments, and reads what is left.

    python -m tests.gradscope.store.kills --times 50

Every fourth run is killed more than once: it is continued, and killed again. Prints how many stores
were whole and readable, and the most seconds of steps that one had lost.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradscope.store import open_run

CHILD = Path(__file__).with_name("killed.py")

STEPS_PER_SECOND = 1000.0

LONGEST = 3.0
"""Seconds that a run lives."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a killed run left.

    Attributes:
        lived: seconds from the first step to the last.
        steps: how many it took.
        lost: seconds from the first step that is not in the store to the kill.
        problem: why the store is not whole, or cannot be read; "" if it is.
    """

    lived: float
    steps: int
    lost: float
    problem: str


def killed_run(store: Path, after: float) -> Left:
    """Starts or continues a run, kills it so many seconds after its first step, and reads it."""
    command = [sys.executable, str(CHILD), str(store), str(STEPS_PER_SECOND)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        told = bytearray(child.stdout.read(16))
        rest = threading.Thread(target=lambda: told.extend(child.stdout.read()))  # type: ignore[union-attr]
        rest.start()
        time.sleep(after)
        at = time.time()
        child.kill()
        rest.join()
    if not told:
        return Left(0.0, 0, 0.0, "it told no step")
    said = list(struct.iter_unpack("qd", told[: len(told) // 16 * 16]))
    problem, last = _read(store, said[-1][0])
    missing = [when for step, when in said if step > last]
    lost = max(at, said[-1][1]) - missing[0] if missing else 0.0
    return Left(said[-1][1] - said[0][1], len(said), lost, problem)


def _read(store: Path, told: int) -> tuple[str, int]:
    """What is wrong with a store, and the last step that it holds."""
    try:
        with open_run(store) as run:
            steps, losses = run.losses()
            sampled, rows = run.rows()
            last = min(int(steps[-1]), int(sampled[-1])) if len(steps) and len(sampled) else -1
            if run.last_step > told:
                return f"it holds step {run.last_step}, but {told} was the last", last
            if not (np.array_equal(steps, losses) and np.array_equal(steps, range(len(steps)))):
                return "losses are missing, or are of other steps", last
            if len(rows) and rows[-1, 0] != sampled[-1]:
                return "rows are of other steps", last
            if run.ended is not None:
                return "it says that it ended", last
        with closing(sqlite3.connect(store)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        return ("" if found == "ok" else found), last
    except Exception as error:
        return f"{type(error).__name__}: {error}", -1


def kill(folder: Path, times: int, seed: int = 0) -> list[Left]:
    """Kills as often as asked, with new stores and continued ones."""
    moments = random.Random(seed)
    left = []
    for index in range(times):
        store = folder / f"{index - index % 4 // 3}.gradscope"
        left.append(killed_run(store, moments.uniform(0.0, LONGEST)))
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        left = kill(Path(folder), options.times, options.seed)
    for one in left:
        if one.problem:
            sys.stdout.write(f"after {one.lived:.2f} s, {one.steps} steps: {one.problem}\n")
    whole = sum(not one.problem for one in left)
    steps = sum(one.steps for one in left)
    seconds = sum(one.lived for one in left)
    sys.stdout.write(
        f"{whole} of {len(left)} stores whole and readable; at most "
        f"{max(one.lost for one in left):.2f} s of steps lost "
        f"({steps} steps, {steps / max(seconds, 1e-9):.0f} per second)\n"
    )
    sys.exit(whole < len(left))


if __name__ == "__main__":
    main()
