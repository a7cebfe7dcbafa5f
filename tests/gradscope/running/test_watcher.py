"""What is found while something trains in this process, and that nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module
from torch.optim import optimizer

import gradscope.monitor
from gradscope.running import Outcome, Watcher
from gradscope.store import open_run


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Net(nn.Linear):
    pass


def train(model: nn.Module, steps: int = 3, rate: float = 0.1) -> None:
    descent = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        descent.zero_grad()
        model(torch.randn(4, 2)).square().mean().backward()
        descent.step()


def fresh() -> Net:
    torch.manual_seed(0)
    return Net(2, 1)


def watched(what: Callable[[], object], **options: Any) -> Outcome:
    watcher = Watcher(**options)
    watcher.start()
    try:
        what()
    finally:
        outcome = watcher.finish()
    return outcome


def test_nothing_stays_when_it_has_ended() -> None:
    def traces() -> tuple[Any, ...]:
        hooks = (
            module._global_forward_hooks,
            optimizer._global_optimizer_pre_hooks,
            optimizer._global_optimizer_post_hooks,
        )
        functions = (torch.autograd.backward, torch.compile, torch.amp.GradScaler.update)
        return *map(len, hooks), *functions

    before = traces()
    model = fresh()
    assert watched(lambda: train(model)).recorded[0].steps == 3
    assert traces() == before
    train(model)


def test_every_run_has_a_store_of_its_own_unless_one_is_named() -> None:
    paths = [watched(lambda: train(fresh())).recorded[0].path for _ in range(2)]
    assert paths == [Path("run.gradscope").absolute(), Path("run-2.gradscope").absolute()]
    recorded = watched(lambda: train(fresh()), store=Path("run.gradscope")).recorded[0]
    assert (recorded.path, recorded.steps) == (paths[0], 6)


def test_a_new_optimizer_of_the_same_model_continues_its_run() -> None:
    def twice() -> None:
        model = fresh()
        train(model)
        train(model, rate=0.01)

    outcome = watched(twice)
    assert [(each.models, each.steps) for each in outcome.recorded] == [(("Net",), 6)]
    with open_run("run.gradscope") as run:
        assert run.last_step == 5


def test_what_fails_inside_costs_one_warning_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(gradscope.monitor, "Monitor", fails)
    alone = fresh()
    train(alone)
    model = fresh()
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError: inside") as told:
        outcome = watched(lambda: train(model))
    assert len(told) == 1
    assert torch.equal(model.weight, alone.weight)
    assert outcome.recorded == ()
    assert "ZeroDivisionError" in outcome.notes[0]


def test_a_model_that_does_not_exist_is_told() -> None:
    outcome = watched(lambda: train(fresh()), model="generator")
    assert outcome.recorded == ()
    assert outcome.notes == ("No model generator owns what SGD trains.",)


def test_tensors_of_no_module_are_told() -> None:
    def training() -> None:
        x = torch.ones(2, requires_grad=True)
        descent = torch.optim.SGD([x], lr=0.1)
        x.square().sum().backward()
        descent.step()

    assert watched(training).notes == ("No module owns what SGD trains.",)
