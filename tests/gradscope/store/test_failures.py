"""Whatever the disk does: one warning, nothing raised, nothing of others overwritten."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gradscope.errors import StoreError
from gradscope.store import Keep, RunWriter, open_run, worker
from gradscope.store.losses import Losses
from gradscope.store.recorder import Recorder
from tests.gradscope.store.runs import INFO, Warned, alert, layout, row, write

STEPS = 50


def use(writer: RunWriter, steps: range = range(STEPS)) -> None:
    """All that a run does with a writer."""
    of = layout()
    writer.layout(of)
    for step in steps:
        writer.sample(step, row(of, step))
        writer.losses(step, np.array([step], np.float32))
    writer.alert(alert())
    writer.event(1, "note", {})
    writer.flush(5)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PAUSE", 0.0)


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A database of another application."""
    path = tmp_path / "run.gradscope"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE sessions (id INTEGER)")
        connection.commit()
    return path


@pytest.mark.parametrize("kind", ["text", "database", "folder", "damaged", "link"])
def test_what_is_not_ours_is_left_as_it_is(kind: str, tmp_path: Path, others: Path) -> None:
    if kind == "text":
        others.write_text("weights")
    elif kind == "folder":
        others.unlink()
        others.mkdir()
    elif kind == "link":
        others.unlink()
        others.symlink_to(tmp_path / "nowhere" / "run")
    elif kind == "damaged":
        others.unlink()
        write(others, range(300))
        content = bytearray(others.read_bytes())
        content[100:] = bytes(len(content) - 100)
        others.write_bytes(content)
    content = others.read_bytes() if others.is_file() else b""
    warned = Warned()
    writer = RunWriter(others, INFO, warn=warned)
    use(writer)
    writer.close()
    assert len(warned) == 1
    assert "this run is written to" in warned[0]
    assert writer.path == tmp_path / "run-2.gradscope"
    assert writer.dropped == 0
    assert (others.read_bytes() if others.is_file() else b"") == content
    with open_run(writer.path) as run:
        assert run.last_step == STEPS - 1


def test_a_second_run_on_the_same_path_goes_beside_it(tmp_path: Path) -> None:
    warned = Warned()
    first = RunWriter(tmp_path / "run", INFO, warn=warned)
    assert warned == []
    second = RunWriter(tmp_path / "run", INFO, warn=warned)
    assert ["is being written by another run" in message for message in warned] == [True]
    use(first)
    use(second, range(5))
    first.close()
    second.close()
    for writer, last in ((first, STEPS - 1), (second, 4)):
        with open_run(writer.path) as run:
            assert run.last_step == last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-2"]
    third = RunWriter(tmp_path / "run", INFO, warn=warned)
    assert (third.path, third.first_step) == (tmp_path / "run", STEPS)
    third.close()


@pytest.mark.parametrize(
    "path", ["/dev/null/run.gradscope", "/dev/null", "/sys/run.gradscope"], ids=str
)
def test_where_nothing_can_be_written(path: str) -> None:
    warned = Warned()
    writer = RunWriter(path, INFO, warn=warned)
    assert len(warned) == 1
    use(writer)
    writer.close()
    assert len(warned) == 1
    assert "Training goes on" in warned[0]
    assert writer.dropped == 2 * STEPS + 2
    assert not Path("/dev/null-2").exists()


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process gets larger than 400 KB; SIGXFSZ is ignored by Python."""
    assert signal.getsignal(signal.SIGXFSZ) is not signal.SIG_DFL
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk", "no_pause")
def test_a_full_disk(tmp_path: Path) -> None:
    warned = Warned()
    writer = RunWriter(tmp_path / "run", INFO, warn=warned)
    of = layout(200, 200)
    writer.layout(of)
    for step in range(300):
        writer.sample(step, row(of, step))
        if step % 30 == 29:
            writer.flush(5)
    assert len(warned) == 1
    lost = writer.dropped
    assert lost > 100
    writer.layout(layout())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    writer.sample(300, row(layout(), 300))
    assert writer.flush(5)
    writer.close()
    assert len(warned) == 1
    with open_run(tmp_path / "run") as run:
        assert run.last_step == 300
        assert run.dropped == lost
        assert len(run.rows()[0]) == 301 - lost
        assert run.ended == ""


@pytest.mark.usefixtures("no_pause")
def test_a_batch_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    warned = Warned()
    keep = Keep(rows=10, merged=4, loss_blocks=1, merged_loss_blocks=2)
    writer = RunWriter(tmp_path / "run", INFO, warn=warned, keep=keep)
    use(writer, range(20))
    monkeypatch.setattr(Losses, "tidy", fail)  # after the rows were added and merged
    use(writer, range(20, 40))
    monkeypatch.undo()
    monkeypatch.setattr(worker, "_PAUSE", 0.0)
    use(writer, range(40, 60))
    use(writer, range(60, 80))
    writer.close()
    assert len(warned) == 1
    assert writer.dropped == 2 * 20 + 2
    with open_run(tmp_path / "run") as run:
        samples = run._query("SELECT sum(samples), min(first), max(last) FROM rows")
        assert samples == [(60, 0, 79)]
        _, losses = run.losses()
        assert np.isnan(losses[20:40]).all()
        assert losses[40:].tolist() == list(range(40, 80))


def test_a_store_that_is_removed_meanwhile(tmp_path: Path) -> None:
    warned = Warned()
    writer = RunWriter(tmp_path / "run", INFO, warn=warned)
    use(writer)
    (tmp_path / "run").unlink()
    use(writer, range(STEPS, 2 * STEPS))
    writer.close()
    assert len(warned) == 1
    assert "was removed" in warned[0]
    assert writer.dropped == 2 * STEPS + 2
    assert not (tmp_path / "run").exists()


def test_a_database_that_another_process_holds(tmp_path: Path, no_pause: None) -> None:
    warned = Warned()
    writer = RunWriter(tmp_path / "run", INFO, warn=warned)
    with closing(sqlite3.connect(tmp_path / "run", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        use(writer)
        begun = time.monotonic()
        writer.close(0.2)
        assert time.monotonic() < begun + 5
    assert len(warned) == 1
    assert "locked" in warned[0]


def test_a_thread_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    warned = Warned()
    writer = RunWriter(tmp_path / "run", INFO, warn=warned)
    monkeypatch.setattr(worker.Worker, "_write", fail)
    use(writer)
    writer.close()
    assert warned == [
        f"The run store {tmp_path / 'run'} cannot be written: MemoryError. "
        "Training goes on; what cannot be stored is dropped and counted."
    ]
    assert not (tmp_path / "run-lock").exists()


def test_a_thread_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(worker.Worker, "start", fail)
    warned = Warned()
    writer = RunWriter(tmp_path / "run", INFO, warn=warned)
    use(writer)
    writer.close()
    assert ["can't start new thread" in message for message in warned] == [True]


def test_a_full_queue_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    write_batch = Recorder.write

    def slow(self: Recorder, items: list[tuple[object, ...]], dropped: int) -> None:
        held.wait(20)
        write_batch(self, items, dropped)

    monkeypatch.setattr(Recorder, "write", slow)
    warned = Warned()
    writer = RunWriter(tmp_path / "run", INFO, warn=warned, queue=10)
    writer.layout(layout())
    for step in range(200):
        writer.sample(step, row(layout(), step))
    dropped = writer.dropped
    assert 150 < dropped < 200
    assert not writer.flush(0.1)
    held.set()
    assert writer.flush(20)
    writer.close()
    assert (warned, writer.dropped) == ([], dropped)
    with open_run(tmp_path / "run") as run:
        assert (run.dropped, len(run.rows()[0])) == (dropped, 200 - dropped)


def test_a_disk_that_hangs_does_not_hang_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr(Recorder, "write", lambda *_: held.wait(30))
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    use_later = threading.Thread(target=writer.close, args=(0.2,))
    writer.event(0, "note", {})
    use_later.start()
    use_later.join(10)
    assert not use_later.is_alive()
    held.set()
    writer._worker.join(20)


def test_a_warning_that_is_an_error_stops_nothing(tmp_path: Path) -> None:
    def warn(message: str) -> None:
        raise RuntimeWarning(message)

    writer = RunWriter("/dev/null/run", INFO, warn=warn)
    use(writer)
    writer.close()
    assert writer.dropped == 2 * STEPS + 2


def test_a_run_that_is_not_closed_is_stored_when_its_process_ends(tmp_path: Path) -> None:
    code = f"""
        import sys
        sys.path.insert(0, {str(Path.cwd())!r})
        from tests.gradscope.store.runs import INFO, Warned, layout, row
        from gradscope.store import RunWriter
        writer = RunWriter({str(tmp_path / "run")!r}, INFO, warn=print)
        writer.layout(layout())
        writer.sample(0, row(layout(), 0))
        raise SystemExit(7)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == 7
    with open_run(tmp_path / "run") as run:
        assert (run.last_step, run.ended) == (0, "exit")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_writer_that_nobody_has_any_more_ends(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    thread = writer._worker
    use(writer)
    del writer
    assert not thread.is_alive()
    with open_run(tmp_path / "run") as run:
        assert (run.last_step, run.ended) == (STEPS - 1, "exit")


@pytest.mark.parametrize("log", [False, True], ids=["ended", "killed"])
def test_a_folder_that_cannot_be_written_is_read(log: bool) -> None:
    # Not tmp_path: another user, who is not root, has to reach it.
    with tempfile.TemporaryDirectory() as name:
        folder, copy = Path(name), Path(name) / "copy"
        copy.mkdir()
        writer = RunWriter(folder / "run", INFO, warn=Warned())
        use(writer)
        if log:
            for path in folder.glob("run*"):
                if path.name in ("run", "run-wal"):
                    shutil.copy(path, copy)
            writer.close()
        else:
            writer.close()
            shutil.copy(folder / "run", copy)
            # As an older SQLite, or a reader at the end, leaves it: to be read with a log.
            with closing(sqlite3.connect(copy / "run")) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
        folder.chmod(0o755)
        copy.chmod(0o555)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                with open_run(copy / "run") as run:
                    status = 0 if (run.last_step, run.dropped) == (STEPS - 1, 0) else 2
                    status = status or (0 if len(run.rows()[0]) == STEPS else 3)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sorted(path.name for path in copy.iterdir()) == ["run", *["run-wal"] * log]
        copy.chmod(0o755)


def test_damaged_stores_are_errors_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "run", range(400))
    content = (tmp_path / "run").read_bytes()
    numbers = random.Random(0)
    refused = 0
    for attempt in range(24):
        damaged = bytearray(content[: len(content) * (attempt % 3 + 1) // 3])
        for _ in range(200):
            damaged[numbers.randrange(100, len(damaged))] = numbers.randrange(256)
        (tmp_path / "bad").write_bytes(damaged)
        try:
            with open_run(tmp_path / "bad") as run:
                _ = run.sessions, run.layout, run.last_step, run.alerts, run.events, run.info
                for bins in (None, 5):
                    run.losses(bins)
                    run.rows(bins=bins)
        except StoreError:
            refused += 1
        warned = Warned()
        writer = RunWriter(tmp_path / "bad", INFO, warn=warned)
        writer.layout(layout())
        writer.sample(10_000, row(layout(), 0))
        writer.close()
        assert len(warned) <= 1
    assert refused > 8
