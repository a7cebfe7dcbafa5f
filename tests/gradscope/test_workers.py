"""Processes that work for this one, and that end with it."""

from __future__ import annotations

import multiprocessing
import os
import time

from gradscope.trajectories.workers import Died, spread


def test_results_come_as_they_are_done_and_the_rest_is_ended() -> None:
    begin = time.monotonic()
    results = spread(time.sleep, [600.0, 0.0, 0.1], 2)
    assert next(results) == (1, None)
    assert next(results) == (2, None)
    assert len(multiprocessing.active_children()) == 1
    results.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []
    assert time.monotonic() - begin < 300


def test_a_process_that_ends_is_told_and_replaced() -> None:
    assert list(spread(os._exit, [3, 4], 1)) == [(0, Died(3)), (1, Died(4))]
