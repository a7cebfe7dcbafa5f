"""Under ``torch.compile`` nothing is compiled more often, or cut, because of a monitor.

What was counted is printed at the end, under "measured".
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad

from gradscope.monitor import Monitor
from tests.gradscope.monitor.compiled_trainings import (
    COMPILING,
    SAMPLED,
    STEPS,
    WAYS,
    Told,
    Training,
    beside,
    counted,
    not_at_all,
    replaced,
    same,
    stance,
)

pytestmark = COMPILING


# --- Sampled steps that are not compiled ----------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_added_to_what_is_compiled(way: str, record_property: Told) -> None:
    plain = Training(not_at_all).end()
    without, alone = counted(lambda backend: Training(WAYS[way], None, backend=backend).end())
    assert without["graph breaks"] == 0
    assert without["graphs"] == 2, "one for each size of batch"
    for attached in ("before", "after", "after a call"):
        counts, training = counted(
            lambda backend, attached=attached: Training(  # type: ignore[misc]
                WAYS[way], "eager", backend=backend, attached=attached
            ).end()
        )
        record_property("measured", f"{way}, attached {attached}: {beside(counts, without)}")
        assert counts == without
        assert training.steps == SAMPLED
        if attached != "after a call":
            # The backend runs what eager mode would.
            same(training.rows, plain.rows, 0)
            assert torch.equal(training.weights, alone.weights)


@pytest.mark.parametrize("mode", ["eager", "in-graph"])
def test_a_watched_model_is_explained_as_one_graph(mode: str, record_property: Told) -> None:
    training = Training(not_at_all, mode).take(3)
    explained = torch._dynamo.explain(training.model)(training.x[0, 0])
    record_property(
        "measured",
        f"torch._dynamo.explain, {mode}: {explained.graph_count} graph, "
        f"{explained.graph_break_count} breaks",
    )
    assert explained.graph_count == 1
    assert explained.graph_break_count == 0
    training.close()


def test_a_whole_step_in_one_function_is_cut_no_more_than_without(record_property: Told) -> None:
    def train(backend: Any, mode: str | None) -> Training:
        training = Training(not_at_all, mode)

        @torch.compile(backend=backend)
        def step(x: Tensor, y: Tensor) -> Tensor:
            training.optimizer.zero_grad()
            loss = cross_entropy(training.model(x), y)
            loss.backward()
            training.optimizer.step()
            return loss

        for x, y in zip(training.x, training.y, strict=True):
            loss = step(x[0], y[0])
            if training.monitor is not None:
                training.monitor.step(loss)
        if training.monitor is not None:
            assert training.monitor.skipped_steps == 0
        training.close()
        return training

    without, _ = counted(lambda backend: train(backend, None))
    counts, training = counted(lambda backend: train(backend, "eager"))
    record_property("measured", f"a whole step in one function: {beside(counts, without)}")
    assert counts == without
    assert training.steps == SAMPLED


def test_a_step_may_end_inside_a_compiled_function() -> None:
    training = Training(not_at_all)

    @torch.compile(backend="eager")
    def step(x: Tensor, y: Tensor) -> None:
        training.optimizer.zero_grad()
        loss = cross_entropy(training.model(x), y)
        loss.backward()
        training.optimizer.step()
        assert training.monitor is not None
        training.monitor.step(loss)

    for x, y in zip(training.x, training.y, strict=True):
        step(x[0], y[0])
    training.close()
    assert training.steps == SAMPLED


# --- The stance -------------------------------------------------------------------------------


def test_the_stance_is_worn_on_sampled_steps_alone() -> None:
    training = Training()
    worn = []
    for _ in range(STEPS):
        worn.append(stance())
        training.take(1)
    sampled = [step for step, name in enumerate(worn) if name == "force_eager"]
    assert sampled == [0, *SAMPLED]
    training.end()


def test_a_stance_of_the_users_stands() -> None:
    with torch.compiler.set_stance("eager_on_recompile"):
        training = Training().take(3)
        assert stance() == "eager_on_recompile"
        training.take(1)
        assert stance() == "force_eager"
        training.end()
        assert stance() == "eager_on_recompile"


def test_a_stance_that_is_set_in_a_sampled_step_holds_from_its_end() -> None:
    training = Training(backend=CompileCounter()).take(4)
    assert stance() == "force_eager"
    with torch.compiler.set_stance("fail_on_recompile"):
        # Hooks are on, and would be something to recompile for.
        training.take(1)
        assert stance() == "fail_on_recompile"
        training.take(3)
        assert stance() == "force_eager"
    # What the block had found when it was entered, not what was worn then.
    training.take(1)
    assert stance() == "default"
    training.end()
    assert training.steps == SAMPLED


def test_two_monitors_wear_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = {name: value for name, value in vars(clip_grad).items() if callable(value)}
    for name, value in clips.items():
        monkeypatch.setattr(clip_grad, name, value)
    training = Training()
    other = training.attach()
    assert other is not None
    worn = []
    for _ in range(5):
        training.take(1)
        other.step()
        worn.append(stance())
    assert worn == ["force_eager", "default", "default", "force_eager", "default"]
    other.close()
    training.end()
    # What listens to clipping has to be taken off in any order, too.
    assert {name: getattr(clip_grad, name) for name in clips} == clips


def test_an_exception_in_a_sampled_step_leaves_nothing_worn() -> None:
    before = replaced()
    training = Training()
    assert training.monitor is not None
    training.take(1)
    assert stance() == "force_eager"
    assert not any(one is other for one, other in zip(replaced(), before, strict=True))
    with pytest.raises(KeyboardInterrupt), training.monitor:
        raise KeyboardInterrupt
    assert stance() == "default"
    assert replaced() == before


def test_a_pause_in_a_sampled_step_is_not_taken_for_its_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def clock() -> float:
        return now

    for module in ("monitor", "sampler", "hooks", "optimizers"):
        monkeypatch.setattr(f"gradscope.monitor.{module}.perf_counter", clock)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
    sampled: list[int] = []
    monitor = Monitor(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        store=None,
        every=10,
        dense=3,
        overhead=0.1,
        on_sample=lambda each: sampled.append(each.step),
        strict=True,
    )
    forward = torch.compile(model, backend="eager")
    for step in range(100):
        eager = stance() == "force_eager"
        # The first compiled step takes a minute, an eager one twice the time of the others, and
        # before the 51st there is an evaluation.
        now += 60 if step == 3 else 2 if eager else 1
        now += 1000 if step == 50 else 0
        forward(torch.ones(2, 4)).sum().backward()
        monitor.step()
    monitor.close()
    assert sampled == [1, 2, *range(10, 100, 10)]
