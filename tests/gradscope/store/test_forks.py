"""Forked children, as data loaders make them, do nothing to the store of their parent."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gradscope.store import open_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

BEGIN = """
import os, signal, sys, time, warnings
from pathlib import Path
sys.path.insert(0, {root!r})
warnings.simplefilter("ignore")  # newer Pythons warn of every fork of a process with threads
import numpy as np
from gradscope.store import RunWriter, open_run
from tests.gradscope.store.runs import INFO, Warned, alert, layout, record, row

store = Path({store!r})
writer = RunWriter(store, INFO, warn=sys.exit)
record(writer, layout(), range(10))
assert writer.flush(10)

def files():
    return [(path.name, path.read_bytes()) for path in sorted(store.parent.glob("run*"))
            if not path.name.endswith("-shm")]
"""


def run_script(store: Path, code: str) -> None:
    begin = BEGIN.format(root=str(Path.cwd()), store=str(store))
    done = subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_does_nothing(tmp_path: Path) -> None:
    run_script(
        tmp_path / "run",
        """
        before = files()
        child = os.fork()
        if child == 0:
            record_ = [writer.sample(99, row(layout(), 99)), writer.losses(99, np.ones(1))]
            writer.layout(layout(1, 1))
            writer.alert(alert())
            writer.event(99, "note", {})
            assert not writer.flush(10)
            writer.close()
            del writer
            sys.exit(0)  # with all that the end of an interpreter does
        assert os.waitpid(child, 0)[1] == 0
        assert files() == before
        record(writer, layout(), range(10, 20))
        writer.close()
        assert writer.dropped == 0
        """,
    )
    with open_run(tmp_path / "run") as run:
        assert run.rows()[0].tolist() == list(range(20))
        assert (run.ended, run.alerts, run.events) == ("", (), ())


def test_a_child_that_outlives_its_parent_holds_nothing(tmp_path: Path) -> None:
    run_script(
        tmp_path / "run",
        """
        read, write = os.pipe()
        ready, told = os.pipe()
        middle = os.fork()
        if middle == 0:
            # A process that dies without closing its store, and its child, which lives on.
            mine = RunWriter(store.with_name("runs-own"), INFO, warn=sys.exit)
            record(mine, layout(), range(10))
            assert mine.flush(10)
            if os.fork() == 0:
                os.close(write)
                os.write(told, b"x")
                os.read(read, 1)  # until the first process says so
                del mine, writer
                sys.exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(middle, 0)
        os.read(ready, 1)
        again = RunWriter(store.with_name("runs-own"), INFO, warn=sys.exit)
        assert again.path.name == "runs-own" and again.first_step == 10, again.path
        record(again, layout(), range(10, 20))
        writer.close()
        os.close(told)
        os.write(write, b"x")
        assert os.read(ready, 1) == b""  # the last one has ended
        record(again, layout(), range(20, 30))
        again.close()
        """,
    )
    for name, steps in (("run", 10), ("runs-own", 30)):
        with open_run(tmp_path / name) as run:
            assert run.rows()[0].tolist() == list(range(steps))
            assert run.ended == ""


def test_a_child_of_a_killed_process_closes_nothing(tmp_path: Path) -> None:
    run_script(
        tmp_path / "run",
        """
        read, write = os.pipe()
        ready, told = os.pipe()
        for part in ("writes", "opens"):
            middle = os.fork()
            if middle == 0:
                mine = RunWriter(store.with_name("runs-own"), INFO, warn=sys.exit)
                if part == "writes":
                    record(mine, layout(), range(10))
                    assert mine.flush(10)
                elif os.fork() == 0:  # while the store is open, and no thread has it
                    os.write(told, b"x")
                    os.read(read, 1)
                    del mine
                    sys.exit(0)
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(middle, 0)
        os.close(told)
        assert os.read(ready, 1) == b"x"
        before = files()
        assert any(name.endswith("-wal") and content for name, content in before)
        os.write(write, b"x")
        assert os.read(ready, 1) == b""  # the last one has ended
        assert files() == before
        writer.close()
        """,
    )
    with open_run(tmp_path / "runs-own") as run:
        assert run.last_step == 9


def test_children_can_use_sqlite_and_write_runs_of_their_own(tmp_path: Path) -> None:
    run_script(
        tmp_path / "run",
        """
        import sqlite3
        children = []
        for number in range(10):
            for step in range(100):
                writer.sample(10 + number * 100 + step, row(layout(), step))
            child = os.fork()
            if child == 0:
                sqlite3.connect(":memory:").execute("CREATE TABLE t (a)")
                if number == 0:
                    own = RunWriter(store.with_name("own"), INFO, warn=sys.exit)
                    record(own, layout(), range(5))
                    own.close()
                os._exit(0)
            children.append(child)
            writer.flush(10)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        writer.close()
        """,
    )
    with open_run(tmp_path / "run") as run, open_run(tmp_path / "own") as own:
        assert run.last_step == 1009
        assert own.last_step == 4
