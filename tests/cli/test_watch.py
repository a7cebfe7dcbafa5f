"""``gradscope watch``: a run that another process writes, on a terminal and without one."""

from __future__ import annotations

import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gradscope.cli import watch
from gradscope.cli.following import Following
from gradscope.store import Run
from tests.cli.recorded import DYING, Training, recorded

COMMAND = Path(sys.executable).with_name("gradscope")
COLOUR = r"\x1b\[[0-9;]*3[0-7]m"
_PATIENCE = 30.0
"""Seconds after which what a terminal was to show counts as not shown."""


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    """A run that still goes on."""
    made = Training(tmp_path / "run.gradscope")
    made.train(100)
    yield made
    made.close()


# --- Without a terminal -----------------------------------------------------------------------


def test_one_frame_is_printed_where_there_is_no_terminal(gradscope: Any, tmp_path: Path) -> None:
    path = recorded(tmp_path / "run.gradscope")
    for run in (gradscope("watch", path), gradscope("watch", path, "--once")):
        lines = run.out.splitlines()
        assert (run.status, run.err) == (0, "")
        assert "\x1b" not in run.out
        assert len(lines) <= 25
        assert max(map(len, lines)) <= 80
        assert lines[0] == "run.gradscope  Net, 5,320 parameters"
        assert lines[1].startswith("✓ finished  step 999 · 50 steps/s · rate 0.001 · written ")
        assert lines[5] == "✗ error GS101 vanishing-gradient  since step 400, 0.relu and 1 more"
        assert [line.split()[:2] for line in lines[8:10]] == [["✗", "0.relu"], ["✗", "1.relu"]]


def test_without_unicode_it_is_ascii(tmp_path: Path) -> None:
    path = recorded(tmp_path / "run.gradscope")
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "80"}
    run = subprocess.run([COMMAND, "watch", path], capture_output=True, env=env)
    assert (run.returncode, run.stderr) == (0, b"")
    assert "x error GS101" in run.stdout.decode("ascii")


@pytest.mark.parametrize(
    ("ended", "age", "said"),
    [
        (None, 0, "▸ running"),
        (None, 29, "▸ running"),
        (None, 120, "▲ stalled or killed"),
        ("", 0, "✓ finished"),
        ("ValueError", 0, "✗ ended by ValueError"),
    ],
)
def test_it_says_what_the_run_does(
    gradscope: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ended: str | None,
    age: float,
    said: str,
) -> None:
    training = Training(tmp_path / "run.gradscope")
    training.train(30)
    if ended is not None:
        training.close(ended)
    now = time.time() + age
    monkeypatch.setattr(watch.time, "time", lambda: now)
    run = gradscope("watch", tmp_path / "run.gradscope", "--once")
    assert said in run.out.splitlines()[1]
    training.close()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"SQLite format 3\x00" + b"\xff" * 100])
def test_what_is_no_run_exits_3(gradscope: Any, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.gradscope"
    if content is not None:
        path.write_bytes(content)
    run = gradscope("watch", path)
    assert (run.status, run.out) == (3, "")
    assert str(path) in run.err
    assert "Traceback" not in run.err


# --- Following --------------------------------------------------------------------------------


def test_only_new_rows_are_read(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    following = Following(training.writer.path)
    asked: list[tuple[int, int]] = []
    rows = Run.rows

    def spied(run: Run, since: int = -1, bins: int | None = None, **rest: Any) -> Any:
        steps, values = rows(run, since, bins, **rest)
        asked.append((since, len(steps)))
        return steps, values

    monkeypatch.setattr(Run, "rows", spied)
    for _ in range(3):
        training.train(50)
        following.look()
    assert asked == [(99, 5), (149, 5), (199, 5)]
    assert following.history.last_step == 249
    assert following.history.sampled[-1] == 249
    following.close()


def test_what_it_keeps_does_not_grow(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.cli.following._SHARE", 1e9)
    following = Following(training.writer.path)
    for _ in range(10):
        training.train(400)
        following.look()
    assert len(following.history.sampled) <= 240
    assert (following.history.sampled[-1], following.history.steps[-1]) == (4099, 4099)
    assert following.history.sites[1].backward_rms[0] > following.history.sites[1].backward_rms[-1]
    following.close()


def test_findings_and_the_end_arrive(training: Training) -> None:
    following = Following(training.writer.path)
    assert following.history.alerts == ()
    training.writer.alert(DYING)
    training.close("KeyboardInterrupt")
    following.look()
    assert following.history.standing == (DYING,)
    assert following.history.ended == "KeyboardInterrupt"
    following.close()


def test_a_resumed_run_is_read_again(training: Training) -> None:
    following = Following(training.writer.path)
    training.close()
    training.__init__(training.writer.path)  # type: ignore[misc]
    training.train(10)
    following.look()
    assert following.history.ended is None
    assert following.history.last_step == 109
    following.close()


def test_a_file_that_is_replaced_is_opened_again(training: Training, tmp_path: Path) -> None:
    path = training.writer.path
    following = Following(path)
    for part in tmp_path.glob("run.gradscope*"):
        part.rename(part.with_name(part.name.replace("run", "old")))
    following.look()
    assert following.gone
    assert following.history.last_step == 99
    recorded(path, 40, layers=2)
    following.look()
    assert not following.gone
    assert following.history.last_step == 39
    assert len(following.history.sites) == 4
    following.close()


# --- On a terminal ----------------------------------------------------------------------------


class Terminal:
    """What a process writes to a terminal of 80 x 24, and keys for it."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self.process = process
        self._side = side
        self.written = ""

    def wait_for(self, pattern: str) -> None:
        """Until it is shown from now on."""
        begin = len(self.written)
        end = time.monotonic() + _PATIENCE
        while not re.search(pattern, self.written[begin:]):
            assert time.monotonic() < end, f"no {pattern!r} in {self.written[begin:]!r}"
            self._read(0.1)

    def press(self, key: bytes) -> None:
        os.write(self._side, key)

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        end = time.monotonic() + _PATIENCE
        while (status := self.process.poll()) is None:
            assert time.monotonic() < end
            self._read(0.05)
        self._read(0.0)
        return status

    def _read(self, seconds: float) -> None:
        if select.select([self._side], [], [], seconds)[0]:
            # The other side is closed once the process is gone.
            try:
                self.written += os.read(self._side, 65536).decode("utf-8", "replace")
            except OSError:
                time.sleep(seconds)


@contextmanager
def terminal(*arguments: str | Path, **environment: str) -> Iterator[Terminal]:
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    env |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_it_follows_a_run_and_q_ends_it(training: Training) -> None:
    with terminal("watch", training.writer.path) as shown:
        shown.wait_for(r"step 99 ")
        assert "\x1b[?1049h" in shown.written, "the screen before is not kept"
        training.train(123)
        shown.wait_for(r"step 222 ")
        training.writer.alert(DYING)
        shown.wait_for(r"GS101 vanishing-gradient")
        assert re.search(COLOUR, shown.written)
        shown.press(b"q")
        assert shown.ended() == 0
        assert "\x1b[?1049l" in shown.written
        assert "Traceback" not in shown.written


def test_ctrl_c_ends_it_and_colours_can_be_refused(training: Training) -> None:
    with terminal("watch", training.writer.path, NO_COLOR="1") as shown:
        shown.wait_for(r"step 99 ")
        shown.process.send_signal(signal.SIGINT)
        assert shown.ended() == 0
        assert not re.search(COLOUR, shown.written)
        assert "Traceback" not in shown.written
