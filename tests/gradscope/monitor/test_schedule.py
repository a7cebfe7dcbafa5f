from __future__ import annotations

import math

import pytest

from gradscope.monitor.schedule import Schedule


def walked(schedule: Schedule, steps: int, cost: float, seconds: float) -> tuple[list[int], float]:
    """Which steps are sampled, and which share of the time that took."""
    sampled, spent, elapsed = [], 0.0, 0.0
    for step in range(steps):
        elapsed += seconds
        if step == schedule.next:
            sampled.append(step)
            spent += cost
            elapsed += cost
            schedule.sampled(step)
            schedule.spent(step, spent, elapsed, cost, seconds)
        else:
            schedule.durations.append(seconds)
    return sampled, spent / (elapsed - spent)


def test_the_start_is_dense_and_then_every_so_many_steps() -> None:
    sampled, _ = walked(Schedule(every=100, dense=20, overhead=None), 500, cost=1.0, seconds=1.0)
    assert sampled == [*range(20), 100, 200, 300, 400]


@pytest.mark.parametrize("cost", [0.01, 0.3, 5.0, 40.0])
def test_the_budget_holds_whatever_a_sample_costs(cost: float) -> None:
    sampled, share = walked(Schedule(every=10, dense=20, overhead=0.02), 50_000, cost, seconds=1.0)
    assert share <= 0.0205
    assert len(sampled) > 20
    if cost > 1:
        # What may be spent is spent.
        assert share > 0.015


def test_without_a_known_duration_nothing_is_put_off() -> None:
    schedule = Schedule(every=5, dense=0, overhead=0.02)
    schedule.sampled(0)
    schedule.spent(0, 100.0, 1.0, 100.0, math.nan)
    assert schedule.next == 5


def test_a_run_that_goes_on_is_dense_again() -> None:
    schedule = Schedule(every=100, dense=3, overhead=None)
    schedule.begin_at(1234)
    sampled = [
        step for step in range(1234, 1500) if step == schedule.next and not schedule.sampled(step)
    ]
    assert sampled == [1234, 1235, 1236, 1300, 1400]
