"""What is written is what is read, by the next session and by an older layout too."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from gradscope.errors import StoreError, UsageError
from gradscope.store import Run, RunWriter, is_run_store, open_run, schema
from gradscope.training import Layout, WatchedSite
from tests.gradscope.store.runs import INFO, Warned, alert, layout, record, row, write


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = tmp_path / "folder" / "run.gradscope"
    warned = Warned()
    of = layout()
    before = time.time()
    writer = RunWriter(store, INFO, warn=warned)
    assert (writer.path, writer.first_step) == (store, 0)
    record(writer, of, range(30))
    writer.alert(alert())
    writer.event(7, "remedy", {"plan": ["a", 1], "limit": np.float32(0.5), "path": Path("x")})
    writer.close()
    assert warned == []
    assert [path.name for path in store.parent.iterdir()] == ["run.gradscope"]
    with open_run(store) as run:
        assert run.info == INFO
        assert run.layout == of
        assert (run.last_step, run.ended, run.dropped) == (29, "", 0)
        assert before <= run.sessions[0].started <= run.updated <= time.time()
        steps, rows = run.rows()
        assert (steps.dtype, rows.dtype) == (np.int64, np.float32)
        assert steps.tolist() == list(range(30))
        np.testing.assert_array_equal(rows, np.stack([row(of, step) for step in range(30)]))
        steps, losses = run.losses()
        assert (losses.dtype, steps.tolist(), losses.tolist()) == (np.float32, *[[*range(30)]] * 2)
        (stored,) = run.alerts
        assert asdict(stored) == asdict(alert())
        (event,) = run.events
        assert (event.step, event.kind) == (7, "remedy")
        assert event.data == {"plan": ["a", 1], "limit": 0.5, "path": "x"}
        assert before <= event.time <= time.time()


def test_measures_are_the_columns_of_the_layout(tmp_path: Path) -> None:
    of = layout()
    write(tmp_path / "run", range(10))
    with open_run(tmp_path / "run") as run:
        _, rows = run.rows()
        steps, dead = run.site("dead")
        assert steps.tolist() == list(range(10))
        np.testing.assert_array_equal(dead, rows[:, [of.site_column(n, "dead") for n in range(3)]])
        _, norms = run.parameter("update_norm")
        columns = [of.parameter_column(n, "update_norm") for n in range(4)]
        np.testing.assert_array_equal(norms, rows[:, columns])
        np.testing.assert_array_equal(run.step_measure("gradient_norm")[1], rows[:, 1])
        for ask in (run.site, run.parameter, run.step_measure):
            with pytest.raises(ValueError, match="no measure 'colour'; there are"):
                ask("colour")


def test_a_live_run_is_followed(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    with open_run(writer.path) as run:
        assert (run.info, run.last_step, run.layout, run.ended) == (INFO, -1, Layout((), ()), None)
        assert run.rows()[1].shape == (0, 5)
        assert run.losses()[0].shape == (0,)
        record(writer, layout(), range(5))
        assert writer.flush(10)
        assert run.last_step == 4
        record(writer, layout(), range(5, 9))
        writer.alert(alert(step=6))
        assert writer.flush(10)
        assert run.rows(since=4)[0].tolist() == [5, 6, 7, 8]
        assert [one.closed for one in run.alerts] == [None]
        writer.alert(alert(step=6, closed=8))
        writer.close()
        assert [one.closed for one in run.alerts] == [8]
        assert run.ended == ""


def test_rows_without_a_flush_are_there_within_two_seconds(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    writer.layout(layout())
    writer.sample(0, row(layout(), 0))
    begun = time.monotonic()
    with open_run(writer.path) as run:
        while run.last_step < 0 and time.monotonic() < begun + 20:
            time.sleep(0.02)
        assert run.last_step == 0
    writer.close()


def test_a_session_continues_after_the_last_step(tmp_path: Path) -> None:
    first = write(tmp_path / "run", range(10), ended="KeyboardInterrupt")
    second = RunWriter(tmp_path / "run", INFO, warn=Warned())
    assert (first.first_step, second.first_step) == (0, 10)
    record(second, layout(), range(10, 15))
    second.close()
    with open_run(tmp_path / "run") as run:
        assert run.rows()[0].tolist() == run.losses()[1].tolist() == list(range(15))
        assert [session.ended for session in run.sessions] == ["KeyboardInterrupt", ""]
        assert [session.first_step for session in run.sessions] == [0, 10]


def test_a_session_replaces_what_it_tells_again(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    record(writer, layout(), range(10))
    for one in (alert(step=2, closed=5), alert("GS002", 2, 9), alert("GS003", 8)):
        writer.alert(one)
    writer.close()
    again = RunWriter(tmp_path / "run", INFO, warn=Warned(), first_step=6)
    assert again.first_step == 6
    again.layout(layout())
    again.sample(7, row(layout(), 7))
    again.losses(6, np.array([60, 70], np.float32))
    again.close()
    with open_run(tmp_path / "run") as run:
        assert run.rows()[0].tolist() == [0, 1, 2, 3, 4, 5, 7]
        assert run.losses()[1].tolist() == [0, 1, 2, 3, 4, 5, 60, 70]
        assert [(one.code, one.closed) for one in run.alerts] == [("GS001", 5), ("GS002", None)]
        assert run.last_step == 7


def test_nothing_is_added_by_a_session_that_tells_nothing(tmp_path: Path) -> None:
    write(tmp_path / "run", range(3))
    RunWriter(tmp_path / "run", INFO, warn=Warned(), first_step=0).close()
    with open_run(tmp_path / "run") as run:
        assert (len(run.sessions), run.last_step) == (1, 2)
    assert not (tmp_path / "run-lock").exists()


def test_another_models_run_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "run.gradscope"
    write(store, range(5))
    content = store.read_bytes()
    for number in (2, 3):
        warned = Warned()
        writer = RunWriter(store, INFO, warn=warned, first_step=0)
        writer.event(0, "note", {})
        record(writer, layout(prefix="other."), range(3))
        writer.close()
        assert writer.path == tmp_path / f"run-{number}.gradscope"
        (message,) = warned
        assert message.endswith(
            f"holds a run of another model: this run is written to {writer.path}."
        )
        with open_run(writer.path) as run:
            assert (run.last_step, len(run.events)) == (2, 1)
            assert run.layout == layout(prefix="other.")
    assert store.read_bytes() == content


def test_older_layouts_are_read_by_name(tmp_path: Path) -> None:
    old, new = layout(2, 2), layout(3, 4)
    new = Layout(tuple(reversed(new.sites)), new.parameters)
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    record(writer, old, range(3))
    record(writer, new, range(3, 6))
    writer.layout(Layout(new.sites, new.parameters))  # an equal one is the same
    writer.close()
    with open_run(tmp_path / "run") as run:
        assert run.layout == new
        steps, values = run.site("dead")
        assert steps.tolist() == list(range(6))
        assert np.isnan(values[:3, 0]).all()
        column = old.site_column(0, "dead")
        assert values[:3, 2].tolist() == [row(old, step)[column] for step in range(3)]
        assert not np.isnan(values[3:]).any()
        _, norms = run.parameter("weight_norm")
        assert np.isnan(norms[:3]).tolist() == [[False, False, True, True]] * 3
        assert run.rows()[1].shape == (6, new.columns)
    for of in (new, old):  # the run has had the parameters of both
        assert write(tmp_path / "run", range(6, 7), of=of, first_step=6).path == tmp_path / "run"


def test_layouts_that_change_all_the_time_are_not_kept(tmp_path: Path) -> None:
    from gradscope.store import Keep

    writer = RunWriter(tmp_path / "run", INFO, warn=Warned(), keep=Keep(rows=20, merged=10))
    for step in range(200):
        site = WatchedSite("0.act", "activation", "relu", (4, step), 1)
        of = Layout((site,), layout().parameters)
        writer.layout(of)
        writer.sample(step, row(of, step))
        if step % 40 == 0:
            assert writer.flush(10)
    writer.close()
    with open_run(tmp_path / "run") as run:
        assert run.layout.sites[0].shape == (4, 199)
        assert not np.isnan(run.rows()[1]).any()
        (layouts,) = run._query("SELECT count(*) FROM layouts")[0]
        assert layouts < 120


def test_rows_of_other_measures_are_read_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradscope.store import contents

    monkeypatch.setattr(contents, "STEP_MEASURES", ("seconds", "loss", "entropy", "a", "b"))
    write(tmp_path / "run", range(3))
    monkeypatch.undo()
    with open_run(tmp_path / "run") as run:
        _, rows = run.rows()
        assert rows[:, 4].tolist() == [0, 1, 2]
        assert (rows[:, 0] - rows[:, 4]).tolist() == [1 / 1024] * 3
        assert np.isnan(rows[:, 1:4]).all()


def test_a_row_that_does_not_fit_is_dropped(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    writer.sample(0, np.zeros(3))
    record(writer, layout(), range(3))
    writer.sample(3, np.zeros(3))
    writer.sample(1, row(layout(), 1))
    writer.event(0, "note", {"circle": (circle := [])})
    circle.append(circle)
    writer.event(0, "note", {"circle": circle})
    writer.close()
    with open_run(tmp_path / "run") as run:
        assert run.rows()[0].tolist() == [0, 1, 2]
        assert run.dropped == 4
        assert len(run.events) == 1


def test_a_row_may_be_written_to_at_once(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    writer.layout(layout())
    numbers = np.zeros(layout().columns)
    for step in range(5):
        numbers[:] = step
        writer.sample(step, numbers)
    writer.close()
    with open_run(tmp_path / "run") as run:
        assert run.rows()[1][:, 3].tolist() == [0, 1, 2, 3, 4]


def test_older_stores_are_brought_up_to_date_and_newer_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "run.gradscope"
    write(store, range(3))
    newer = (*schema.MIGRATIONS, "ALTER TABLE events ADD COLUMN who TEXT DEFAULT 'me'")
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    write(store, range(3, 5))
    with open_run(store) as run:
        assert run.last_step == 4
        assert run._query("SELECT who FROM events") == []
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"was written by a newer gradscope .*Update gradscope"):
        open_run(store)
    warned = Warned()
    writer = RunWriter(store, INFO, warn=warned)
    writer.close()
    assert writer.path.name == "run-2.gradscope"
    assert ["newer gradscope" in message for message in warned] == [True]


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "run"
    write(store, range(3))
    broken = (*schema.MIGRATIONS, "DROP TABLE events; ALTER TABLE none ADD COLUMN who TEXT")
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    warned = Warned()
    RunWriter(store, INFO, warn=warned).close()
    assert len(warned) == 1
    monkeypatch.undo()
    with open_run(store) as run:
        assert run.events == ()


def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("SQLite format 3")
    write(tmp_path / "run", range(1))
    assert is_run_store(tmp_path / "run")
    for other in (text, tmp_path, tmp_path / "none"):
        assert not is_run_store(other)
        with pytest.raises(StoreError, match=r"no run store at|is not a run store"):
            open_run(other)


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_a_table_says_what_it_needs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "run", range(2))
    monkeypatch.setitem(sys.modules, name, None)
    with open_run(tmp_path / "run") as run, pytest.raises(UsageError, match=f"pip install {name}"):
        getattr(run, f"to_{name}")()


def test_tables_have_a_column_for_each_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    write(tmp_path / "run", range(2))
    pandas = SimpleNamespace(
        Index=lambda steps, name: (name, steps.tolist()),
        DataFrame=lambda values, index, columns: (index, dict(zip(columns, values.T, strict=True))),
    )
    monkeypatch.setitem(sys.modules, "pandas", pandas)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "polars", SimpleNamespace(DataFrame=dict))  # type: ignore[arg-type]
    with open_run(tmp_path / "run") as run:
        index, columns = run.to_pandas()
        table = run.to_polars()
        assert index == ("step", [0, 1])
        assert table.pop("step").tolist() == [0, 1]
        for found in (columns, table):
            assert len(found) == run.layout.columns
            assert found["loss"].tolist() == [0, 1]
            expected = run.site("dead")[1][:, 1].tolist()
            assert found["site/1.act/dead"].tolist() == expected
            assert found["parameter/0.weight/weight_norm"].flags.c_contiguous or columns is found


def test_nothing_loads_torch() -> None:
    code = "import sys, gradscope.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nan_and_infinity_are_kept(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    writer.layout(layout())
    numbers = row(layout(), 0)
    numbers[:3] = math.nan, math.inf, -math.inf
    writer.sample(0, numbers)
    writer.losses(0, np.array([1, math.nan, math.inf], np.float32))
    writer.close()
    with open_run(tmp_path / "run") as run:
        np.testing.assert_array_equal(run.rows()[1][0], numbers)
        np.testing.assert_array_equal(run.losses()[1], [1, math.nan, math.inf])


def test_a_run_is_closed_with_its_reader(tmp_path: Path) -> None:
    write(tmp_path / "run", range(1))
    with open_run(tmp_path / "run") as run:
        assert isinstance(run, Run)
    with pytest.raises(StoreError, match="cannot be read"):
        _ = run.info
