"""Opens files in another process, which may hang or die of them.

Run as ``python -m tests.hostile.reading`` it reads paths from stdin, one as JSON on each line, and
answers each with one line of JSON. ``Opener`` is the other end: it ends a process that takes too
long, and starts another one in its place.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

__all__ = ["MEMORY", "Answer", "Opener"]

MEMORY: Final = 1 << 30
"""Bytes that opening one file may take."""

_ADDRESSES: Final = 8 << 30
"""Bytes of addresses beside those that torch takes, so that a bomb does not take the machine's."""

_ROOT: Final = Path(__file__).parents[2]
_NEVER: Final = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "pty.spawn",
    "subprocess.Popen",
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "urllib.Request",
    "webbrowser.open",
    "ctypes.dlopen",
    "shutil.rmtree",
    "shutil.copyfile",
    "sqlite3.connect",
    "pdb.Pdb",
)
"""Events of Python's own audit that mean that something ran."""


@dataclass(frozen=True)
class Answer:
    """What became of one file.

    Attributes:
        outcome: ``opened``, ``refused`` by a CheckpointError, ``raised`` another exception,
            ``hung`` or ``died``.
        message: of the exception.
        where: file, line and function that raised another exception.
        seconds: that it took.
        memory: bytes at the peak above what the process had before.
        ran: events that must not happen.
    """

    outcome: str
    message: str = ""
    where: str = ""
    seconds: float = 0.0
    memory: int = 0
    ran: tuple[str, ...] = ()

    def wrong(self, seconds: float) -> str:
        """What must not have happened, in words; empty where all is well."""
        if self.outcome not in ("opened", "refused"):
            return f"{self.outcome} {self.message} {self.where}"
        if self.ran:
            return f"ran {', '.join(self.ran)}"
        if self.seconds > seconds:
            return f"took {self.seconds:.1f} s"
        return f"took {self.memory >> 20} MiB" if self.memory > MEMORY else ""


class Opener:
    """A process that opens one file after another."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Opener:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def open(self, path: Path) -> Answer:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # which reading finds out, too
            process.stdin.write(json.dumps(str(path)) + "\n")
            process.stdin.flush()
        if not select.select([process.stdout], [], [], self._seconds)[0]:
            self._end()
            return Answer("hung", f"for {self._seconds} s", seconds=self._seconds)
        line = process.stdout.readline()
        if not line:
            status = process.wait()
            self._end()
            return Answer("died", f"with status {status}")
        told = json.loads(line)
        return Answer(**{**told, "ran": tuple(told["ran"])})

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.reading"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=_ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "ready\n"
        return self._process

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()
        self._process = None


def _answer(path: Path, ran: list[str]) -> Answer:
    from gradscope.errors import CheckpointError

    ran.clear()
    # Writing 5 sets the peak back to what the process has now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    started = time.monotonic()
    outcome, message, where = "opened", "", ""
    try:
        _read(path)
    except CheckpointError as error:
        outcome, message = "refused", str(error)
    except BaseException as error:
        outcome, message = "raised", f"{type(error).__name__}: {error}"[:500]
        last = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in last if "/gradscope/" in frame.filename] or last
        where = " < ".join(
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in [*last[-1:], *reversed(ours[-2:])]
        )
    seconds = time.monotonic() - started
    memory = max(0, _memory("VmHWM") - before)
    return Answer(outcome, message, where, seconds, memory, tuple(dict.fromkeys(ran)))


def _read(path: Path) -> None:
    """All that ``gradscope scan`` would read of a checkpoint, and every tensor of its optimizer."""
    from gradscope.checkpoints import StoredTensor, open_checkpoint
    from gradscope.checkpoints.cold import read_stored

    checkpoint = open_checkpoint(path)
    for optimizer in checkpoint.optimizers:
        for slots in optimizer.state.values():
            for value in slots.values():
                if isinstance(value, StoredTensor):
                    loaded = value.load()
                    assert tuple(loaded.shape) == value.shape, "the shape is another one"
    read_stored(checkpoint)


def _memory(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) << 10
    raise LookupError(what)


def _main() -> None:
    # What torch or a checkpoint prints must not stand between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import gradscope.checkpoints.cold  # noqa: F401

    ran: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        # Without a name it is this program itself, of which the paging asks a function.
        if event in _NEVER and arguments != (None,):
            ran.append(f"{event}{arguments!r:.100}")

    limit = _memory("VmSize") + _ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    sys.addaudithook(watch)
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        answer = _answer(Path(json.loads(line)), ran)
        print(json.dumps(asdict(answer)), file=out, flush=True)


if __name__ == "__main__":
    _main()
