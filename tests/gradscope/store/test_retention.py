"""A store stays small: old rows and losses are merged, spikes stay visible."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gradscope.store import Keep, RunWriter, open_run
from gradscope.store.retention import combined
from tests.gradscope.store.runs import INFO, Warned, layout, record, row, write

FEW = Keep(rows=40, merged=20, loss_blocks=2, merged_loss_blocks=4)


def test_newest_rows_are_whole_and_older_ones_merged(tmp_path: Path) -> None:
    of = layout(1, 1)
    write(tmp_path / "run", range(1003), keep=FEW, of=of)
    with open_run(tmp_path / "run") as run:
        steps, means = run.rows()
        _, maxima = run.rows(maximum=True)
        assert 60 <= len(steps) < 75
        assert steps[-40:].tolist() == list(range(963, 1003))
        np.testing.assert_array_equal(means[-40:], np.stack([row(of, n) for n in steps[-40:]]))
        # Every step is in one row: each begins after the last step of the one before.
        found = run._query("SELECT first, last, samples, level FROM rows ORDER BY last")
        assert found[0][0] == 0
        for (_, last, _, level), (first, _, _, later) in pairwise(found):
            assert first == last + 1
            assert level >= later
        for (first, last, samples, level), mean, maximum in zip(found, means, maxima, strict=True):
            assert samples == last - first + 1 == 2**level
            np.testing.assert_allclose(mean, row(of, 0) + (first + last) / 2, rtol=1e-5)
            np.testing.assert_array_equal(maximum, row(of, last))


def test_a_spike_and_an_overflow_stay_visible(tmp_path: Path) -> None:
    of = layout(1, 1)
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned(), keep=FEW)
    writer.layout(of)
    for step in range(1000):
        numbers = np.ones(of.columns, np.float32)
        numbers[1] = np.inf if step == 100 else 2
        numbers[2] = 1e6 if step == 300 else 3
        numbers[3] = np.nan if step % 3 else 4
        numbers[4] = np.nan
        writer.sample(step, numbers)
        if step % 50 == 0:
            assert writer.flush(10)
    writer.close()
    for bins in (None, 7):
        with open_run(tmp_path / "run") as run:
            steps, means = run.rows(bins=bins)
            _, maxima = run.rows(bins=bins, maximum=True)
        assert np.isinf(maxima[:, 1]).sum() == 1
        assert np.isfinite(means[:, 1]).all()
        assert (means[:, 1] == 2).all()
        assert np.isinf(maxima[np.searchsorted(steps, 100), 1])
        assert maxima[np.searchsorted(steps, 300), 2] == np.float32(1e6)
        assert 3 < means[:, 2].max() < 1e6
        assert set(means[:5, 3]) == {4}
        assert np.isnan(means[:, 4]).all()
        assert np.isnan(maxima[:, 4]).all()


def test_the_mean_is_weighted_and_over_what_is_finite() -> None:
    nan, inf = np.nan, np.inf
    first = np.array([[1, nan, 1, inf, inf, -inf, 3e38]], np.float32)
    second = np.array([[4, 5, inf, nan, inf, -inf, 3e38]], np.float32)
    mean, maximum = combined(
        (first, second), (first, second), (np.array([[2.0]]), np.array([[1.0]]))
    )
    np.testing.assert_allclose(mean, [[2, 5, 1, inf, inf, -inf, 3e38]], rtol=1e-6)
    np.testing.assert_array_equal(maximum, np.fmax(first, second))


def test_rows_of_different_layouts_are_merged_by_name(tmp_path: Path) -> None:
    old, new = layout(1, 2), layout(2, 2)
    keep = Keep(rows=8, merged=4)
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned(), keep=keep)
    record(writer, old, range(21))
    record(writer, new, range(21, 60))
    writer.close()
    with open_run(tmp_path / "run") as run:
        steps, values = run.site("dead")
        assert len(steps) < 16
        assert np.isnan(values[0]).tolist() == [False, True]
        assert not np.isnan(values[-1]).any()


def test_losses_of_all_steps_are_bounded(tmp_path: Path) -> None:
    count = 120_000
    losses = np.arange(count, dtype=np.float32)
    losses[5000] = np.inf
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned(), keep=FEW)
    writer.layout(layout())
    for start in range(0, count, 1000):
        writer.losses(start, losses[start : start + 1000])
        if start % 20_000 == 0:
            assert writer.flush(10)
    writer.close()
    with open_run(tmp_path / "run") as run:
        steps, means = run.losses()
        _, maxima = run.losses(maximum=True)
        assert len(steps) <= 4096 * 6
        assert run.last_step == steps[-1] == count - 1
        assert (np.diff(steps) > 0).all()
        whole = steps > count - 4096
        np.testing.assert_array_equal(means[whole], losses[steps[whole]])
        stride = np.diff(steps, prepend=-1)
        exact = steps - (stride - 1) / 2
        far = np.abs(steps - 5000) > 64
        np.testing.assert_allclose(means[far], exact[far], rtol=1e-6)
        np.testing.assert_array_equal(maxima[far], losses[steps[far]])
        assert np.isinf(maxima).sum() == 1
        assert np.isfinite(means).all()
        assert run.losses(100)[0].shape == (100,)


def test_losses_are_replaced_from_within_merged_ones(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned(), keep=FEW)
    for start in range(0, 100_000, 20_000):
        writer.losses(start, np.arange(start, start + 20_000, dtype=np.float32))
    writer.close()
    for first in (50_001, 30_000):
        again = RunWriter(tmp_path / "run", INFO, warn=Warned(), keep=FEW, first_step=first)
        again.losses(first, np.full(90_000, -1, np.float32))
        again.close()
        with open_run(tmp_path / "run") as run:
            steps, values = run.losses()
            assert (np.diff(steps) > 0).all()
            assert steps[-1] == first + 90_000 - 1
            before = steps[values >= 0]
            assert first - 64 < before[-1] < first
            assert (values[steps >= first + 63] == -1).all()
            stride = np.diff(before, prepend=-1)
            np.testing.assert_allclose(
                values[values >= 0], before - (stride - 1) / 2, rtol=1e-6, atol=0.5
            )


def test_steps_without_losses_are_gaps(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    writer.losses(3, np.array([3, 4], np.float32))
    writer.losses(6, np.array([6], np.float32))
    writer.losses(9000, np.array([9000], np.float32))
    writer.losses(5, np.array([5, 5, 5], np.float32))  # not new
    writer.close()
    with open_run(tmp_path / "run") as run:
        steps, values = run.losses()
        assert steps.tolist() == [3, 4, 5, 6, 9000]
        np.testing.assert_array_equal(values, [3, 4, np.nan, 6, 9000])


def test_wide_rows_are_kept_in_smaller_numbers() -> None:
    keep = Keep(rows=1000, merged=2000, size=10**8)
    assert keep.for_columns(100) == (1000, 2000)
    newest, merged = keep.for_columns(25_000)
    assert (newest + 2 * merged) * 25_000 * 4 <= 10**8
    assert merged == pytest.approx(2 * newest, abs=2)
    assert keep.for_columns(10**7) == (64, 64)


def test_the_file_does_not_grow(tmp_path: Path) -> None:
    of = layout(20, 40)
    sizes = []
    for end in (500, 2000):
        write(tmp_path / "run", range(end - 500 if end == 500 else 500, end), keep=FEW, of=of)
        sizes.append((tmp_path / "run").stat().st_size)
    assert sizes[1] < 1.3 * sizes[0]


def test_events_and_alerts_are_bounded(tmp_path: Path) -> None:
    from tests.gradscope.store.runs import alert

    writer = RunWriter(tmp_path / "run", INFO, warn=Warned(), keep=Keep(notes=10))
    for step in range(30):
        writer.event(step, "skipped", {})
        writer.alert(alert(step=step))
        for closed in range(3):
            writer.alert(alert(step=29, closed=closed + 40))
    writer.close()
    with open_run(tmp_path / "run") as run:
        assert [event.step for event in run.events] == list(range(20, 30))
        assert len(run.alerts) <= 10
        assert {one.step for one in run.alerts} >= {28, 29} or len(run.alerts) == 10


def test_bins_are_of_equally_many_steps(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", INFO, warn=Warned())
    of = layout(1, 1)
    writer.layout(of)
    # Dense at the start, then every 100th.
    steps = [*range(20), *range(99, 1000, 100)]
    for step in steps:
        writer.sample(step, row(of, step))
    writer.close()
    with open_run(tmp_path / "run") as run:
        last, values = run.rows(bins=10)
        assert last.tolist() == [19 + 80, *range(199, 1000, 100)]
        assert values[0, 0] == pytest.approx(np.mean([*range(20), 99]))
        assert run.rows(bins=1)[0].tolist() == [999]
        assert run.rows(bins=100)[0].tolist() == steps
        assert run.rows(since=500, bins=2)[0].tolist()[-1] == 999
