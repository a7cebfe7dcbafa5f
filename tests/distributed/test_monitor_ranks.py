"""A monitor on several processes says what one on one process would, and hangs with none of them.

The processes are real ones, started by torchrun, that talk through gloo.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from gradscope.store import open_run
from gradscope.training import STEP_MEASURES

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not hasattr(os, "fork") or sys.platform == "darwin",
    reason="torch has no gloo here, or a process with its libraries cannot be forked",
)

Told = dict[str, Any]
Case = Callable[[int, str], tuple[Told, ...]]

# Numbers are float32; sums over samples are taken in another order than on one process.
NEAR = 1e-5

SAMPLED = [1, 2, 3, 4, 5, 8]
STEPS = 12

ON_TWO = ("ddp", "ddp-accumulated", "ddp-experts", "fsdp", "tp", "tp-attention")
ON_FOUR = ("ddp", "ddp-experts", "fsdp", "tp", "fsdp-tp")
SCENES = (
    "slow-on-rank-1",
    "uneven",
    "pipeline",
    "only-on-rank-0",
    "only-on-rank-1",
    "never-told",
    "killed",
    "interrupted",
    "broken",
    "skipped",
    "hung",
    "destroyed",
    "resumed",
    "other-models",
    "made-before",
)
STARTED = {2: (*ON_TWO, *SCENES), 4: ON_FOUR}
COMPARED = [(2, name) for name in ON_TWO] + [(4, name) for name in ON_FOUR]

STOPPED = "gradscope: the monitor has stopped at step "


@pytest.fixture
def case(torchrun: Callable[..., dict[str, Told]]) -> Case:
    """What the ranks wrote of a case, in their order, and then what the reference did."""

    def told(ranks: int, name: str) -> tuple[Told, ...]:
        results = torchrun(ranks, STARTED[ranks], "monitored.py")
        found = []
        for who in [*map(str, range(ranks)), "reference"]:
            written = results.get(f"{name}.{who}", {})
            assert "traceback" not in written, f"{name}, {who}:\n{written['traceback']}"
            if not written and who != "reference" and (name, who) != ("killed", "1"):
                start = results["start"]
                pytest.fail(f"Rank {who} wrote nothing of {name}: {start['output'][-8000:]}")
            found.append(written)
        return tuple(found)

    return told


def off(told: Told, reference: Told) -> float:
    """The largest relative difference between rows, durations of steps left out."""
    seconds = STEP_MEASURES.index("seconds")
    ours, theirs = (np.delete(np.array(each["rows"]), seconds, 1) for each in (told, reference))
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        differences = np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-9)
    return float(np.nanmax(differences))


def names(told: Told) -> list[list[str]]:
    layout = told["layout"]
    return [[each.name for each in layout.sites], [each.name for each in layout.parameters]]


@pytest.mark.parametrize(("ranks", "name"), COMPARED)
def test_rows_are_those_of_one_process(
    case: Case, ranks: int, name: str, record_property: Callable[[str, object], None]
) -> None:
    *each, reference = case(ranks, name)
    assert reference["steps"] == SAMPLED
    for told in each:
        assert told["steps"] == SAMPLED
        assert names(told) == names(reference)
        np.testing.assert_array_equal(told["rows"], each[0]["rows"])
        assert off(told, reference) <= NEAR
        np.testing.assert_allclose(
            np.concatenate(told["losses"]), np.concatenate(reference["losses"]), rtol=NEAR
        )
        assert told["warnings"] == []
    record_property("measured", f"{name} on {ranks}: rows off by {off(each[0], reference):.1e}")


@pytest.mark.parametrize(("ranks", "name"), COMPARED)
def test_a_sampled_step_costs_one_collective_and_changes_nothing(
    case: Case, ranks: int, name: str, record_property: Callable[[str, object], None]
) -> None:
    for told in case(ranks, name)[:-1]:
        assert told["collectives"] == len(SAMPLED)
        # Of the training's own there are as many as without a monitor.
        assert told["added"] == 0
        assert told["same"]
    record_property(
        "measured",
        f"{name} on {ranks}: {told['collectives']} collectives for {len(SAMPLED)} samples, "
        f"{told['setup']} at the first step",
    )


@pytest.mark.parametrize(("ranks", "name"), COMPARED)
def test_the_first_rank_stores_what_one_process_does(case: Case, ranks: int, name: str) -> None:
    first, *others, reference = case(ranks, name)
    assert all(told["path"] is None for told in others)
    with open_run(first["path"]) as run, open_run(reference["path"]) as alone:
        steps, losses = run.losses()
        assert steps.tolist() == list(range(STEPS))
        np.testing.assert_allclose(losses, alone.losses()[1], rtol=NEAR)
        assert run.rows()[0].tolist() == SAMPLED
        assert run.ended == ""
        assert run.info.processes == ranks


def test_what_is_compared_holds_dead_and_saturated_units(case: Case) -> None:
    for name, measures in (("ddp", (2, 3, 4)), ("tp", (2, 3, 4)), ("fsdp", (2, 3, 4))):
        reference = case(2, name)[-1]
        first = len(STEP_MEASURES)
        table = reference["rows"][-1][first : reference["layout"].first_parameter].reshape(-1, 5)
        for measure in measures:
            assert np.nanmax(table[:, measure]) > 0


def test_ranks_keep_a_budget_together(case: Case) -> None:
    fast, slow, _ = case(2, "slow-on-rank-1")
    assert fast["steps"] == slow["steps"]
    assert fast["warnings"] == slow["warnings"] == []
    # By its own schedule it would be each second step.
    assert 3 <= len(fast["steps"]) < 20


def test_an_uneven_last_batch(case: Case) -> None:
    *each, _ = case(2, "uneven")
    for told in each:
        assert told["steps"] == told["alone"]["steps"]
        begin, end = len(STEP_MEASURES), told["layout"].first_parameter
        ours, theirs = (row[begin:end:5] for row in (told["rows"][-1], told["alone"]["rows"][-1]))
        np.testing.assert_allclose(ours, theirs, rtol=NEAR)


def test_ranks_with_other_layers(case: Case) -> None:
    *each, _ = case(2, "pipeline")
    for told in each:
        assert names(told) == names(told["alone"])
        assert off(told, told["alone"]) <= NEAR
        assert told["warnings"] == []


@pytest.mark.parametrize(
    ("name", "who"), [("only-on-rank-0", 0), ("only-on-rank-1", 1), ("never-told", 0)]
)
def test_a_rank_without_a_monitor_is_waited_for_once(case: Case, name: str, who: int) -> None:
    each = case(2, name)
    (warning,) = each[who]["warnings"]
    assert "only some of the processes have a monitor" in warning
    assert each[1 - who]["warnings"] == []
    with open_run(each[who]["path"]) as run:
        assert run.rows()[0].tolist() == each[who]["steps"] == [1, 2, 3, 4, 5]


def test_a_killed_rank_leaves_a_readable_store(case: Case) -> None:
    survivor, killed, _ = case(2, "killed")
    assert killed == {}
    # The training's own collective has raised, and closing took no longer than its share.
    assert "peer" in survivor["raised"]
    assert survivor["after"] < 15
    assert survivor["warnings"] == []
    with open_run(survivor["path"]) as run:
        assert run.rows()[0].tolist() == survivor["steps"]
        # The sum of the last sample may have been on its way.
        assert [*survivor["steps"], 12][:9] == [1, 2, 3, 4, 5, 6, 8, 10, 12]
        assert run.losses()[0].tolist() == list(range(13))
        assert run.ended == "RuntimeError"


@pytest.mark.parametrize(
    ("name", "trained", "warned"),
    [
        ("interrupted", 11, (1, 0)),
        ("broken", 20, (1, 1)),
        ("skipped", 20, (1, 1)),
        ("hung", 20, (1, 1)),
    ],
)
def test_a_monitor_that_ends_on_one_rank_holds_up_no_other(
    case: Case, name: str, trained: int, warned: tuple[int, int]
) -> None:
    first, second, _ = case(2, name)
    assert (first["trained"], second["trained"]) == (20, trained)
    for told, warnings in zip((first, second), warned, strict=True):
        assert len(told["warnings"]) == warnings
        assert all(STOPPED in warning for warning in told["warnings"])
        assert told["waited"] < 10
    with open_run(first["path"]) as run:
        assert run.rows()[0].tolist() == first["steps"]
        assert run.ended == "an error inside the monitor"


def test_groups_may_be_destroyed_before_the_monitor_is_closed(case: Case) -> None:
    *each, _ = case(2, "destroyed")
    for told in each:
        assert told["steps"] == [1, 2, 3, 4, 5, 8]
        assert told["warnings"] == []


def test_all_ranks_resume_at_the_step_of_the_store(case: Case) -> None:
    first, second, _ = case(2, "resumed")
    assert first["steps"] == second["steps"] == [11, 12, 13, 14, 15, 16]
    with open_run(first["path"]) as run:
        assert run.losses()[0].tolist() == list(range(20))
    assert [path.name for path in Path(first["path"]).parent.glob("*.gradscope")] == [
        "run.gradscope"
    ]


def test_what_cannot_be_the_same_is_told_apart(case: Case) -> None:
    for told in case(2, "other-models")[:2]:
        sites, parameters = names(told)
        assert sites == ["1", "1 of process 1", "3"]
        others = [name for name in parameters if name.endswith(" of process 1")]
        # The last bias has the same shape on both.
        assert [name.split()[0] for name in others] == ["0.weight", "0.bias", "2.weight"]
        assert len(parameters) == 4 + len(others)
        assert told["steps"] == SAMPLED
        assert np.isfinite([row[5] for row in told["rows"]]).all()


def test_a_monitor_may_be_made_before_the_process_group(case: Case) -> None:
    first, second, _ = case(2, "made-before")
    assert second["path"] is None
    np.testing.assert_array_equal(first["rows"], second["rows"])
    assert first["steps"] == SAMPLED
