"""Starts ranks with torchrun, each start once for all tests, and prints how far they were off."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent

# Of a whole start. Each case gives up by itself well before.
SECONDS = 400

Results = dict[str, dict[str, Any]]
"""What the ranks and the reference wrote, by ``CASE.RANK`` and ``CASE.reference``."""


@pytest.fixture(scope="session")
def torchrun(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Results]:
    """Runs cases on so many ranks, all of one script in one start."""
    done: dict[tuple[str, int], Results] = {}

    def run(ranks: int, cases: tuple[str, ...], script: str = "worker.py") -> Results:
        if (script, ranks) not in done:
            folder = tmp_path_factory.mktemp(f"ranks-{ranks}")
            done[script, ranks] = _launched(folder, ranks, cases, HERE / script)
        return done[script, ranks]

    return run


def _launched(folder: Path, ranks: int, cases: tuple[str, ...], script: Path) -> Results:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr", "127.0.0.1", "--nproc-per-node", str(ranks)]
    command += [str(script), str(folder), *cases]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        # Otherwise gloo looks for the address that the host's name resolves to, if to any.
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    start = time.perf_counter()
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            status: int | str = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            status = f"ended after {SECONDS} s"
        finally:
            _end(process)
    results = {
        path.name: pickle.loads(path.read_bytes())
        for path in folder.iterdir()
        if path.is_file() and path.name != "output" and path.suffix != ".part"
    }
    results["start"] = {
        "status": status,
        "output": (folder / "output").read_text(errors="replace"),
        "seconds": time.perf_counter() - start,
        "folder": folder,
    }
    return results


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends torchrun, which ends its ranks when it is asked to, and its process group for sure."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
