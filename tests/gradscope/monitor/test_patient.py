"""A monitor leaves a training as it would have been, also when the monitor itself fails."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as modules_of_torch
from torch.nn.utils import clip_grad
from torch.overrides import _get_current_function_mode_stack

from gradscope.monitor import Monitor, gauges, hooks, optimizers, readings
from gradscope.store import open_run
from tests.gradscope.monitor.trainings import (
    FEATURES,
    Net,
    batches,
    same_weights,
    trained,
)


def global_hooks() -> int:
    return len(modules_of_torch._global_forward_hooks) + len(
        modules_of_torch._global_forward_pre_hooks
    )


def hooks_on(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


def test_nothing_is_left_behind() -> None:
    clips = dict(vars(clip_grad))
    model, _, monitor = trained()
    assert monitor is not None
    assert not monitor.enabled
    assert global_hooks() == hooks_on(model) == 0
    assert dict(vars(clip_grad)) == clips
    assert not any(each._backward_hooks for each in model.parameters())


def test_between_samples_nothing_is_on_the_model() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, store=None, every=100, dense=2, strict=True) as monitor:
        for number, (inputs, targets) in enumerate(batches(6)):
            assert hooks_on(model) == 0
            assert bool(global_hooks()) == (number < 2)
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            monitor.step()


def test_a_model_is_copied_before_the_first_step() -> None:
    model = Net()
    with Monitor(model, store=None):
        assert hooks_on(copy.deepcopy(model)) == 0
        pickle.dumps(model)


@pytest.mark.parametrize("sampled", [True, False])
def test_models_are_copied_and_pickled_as_if_nobody_watched(sampled: bool) -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    plain = io.BytesIO()
    torch.save(model, plain)
    every = 1 if sampled else 1000
    with Monitor(model, optimizer, store=None, every=every, dense=0, strict=True) as monitor:
        for inputs, targets in batches(3):
            functional.cross_entropy(model(inputs), targets).backward()
            monitor.step()
        saved = io.BytesIO()
        torch.save(model, saved)
        assert len(saved.getvalue()) == len(plain.getvalue())
        assert hooks_on(copy.deepcopy(model)) == 0
        pickle.loads(pickle.dumps(optimizer))
        held = {"monitor": monitor}
        assert not copy.deepcopy(held)["monitor"].enabled
        assert not pickle.loads(pickle.dumps(monitor)).enabled


@pytest.mark.parametrize(
    "place",
    [
        (gauges.Gauge, "see"),
        (gauges.Gauge, "_norm"),
        (gauges.Gauge, "see_gradient"),
        (hooks.Hooks, "put_on"),
        (optimizers.Updates, "read_rest"),
        (optimizers.Updates, "_norms"),
        (optimizers.Updates, "_measure_update"),
        (optimizers.Updates, "begin"),
        (readings.Readings, "collect"),
        (readings.Readings, "_row"),
    ],
    ids=lambda place: f"{place[0].__name__}.{place[1]}",
)
def test_a_fault_inside_ends_the_monitor_and_not_the_training(
    place: tuple[type, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind, name = place
    original = getattr(kind, name)
    calls = 0

    def faulty(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise ZeroDivisionError("a fault")
        return original(*args, **kwargs)

    alone, _, _ = trained(monitored=False, steps=20)
    monkeypatch.setattr(kind, name, faulty)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, _, monitor = trained(
            steps=20, strict=False, store=tmp_path / "run.gradscope", after=_clip
        )
        clipped, _, _ = trained(monitored=False, steps=20, after=_clip)
    assert calls > 6
    assert monitor is not None
    assert not monitor.enabled
    assert [str(each.message) for each in caught] == [
        f"gradscope: the monitor has stopped at step {monitor.steps}, and the training goes on "
        "without it: ZeroDivisionError: a fault."
    ]
    assert same_weights(model, clipped)
    assert not same_weights(model, alone)
    monkeypatch.undo()
    assert global_hooks() == hooks_on(model) == 0
    with open_run(tmp_path / "run.gradscope") as run:
        assert run.ended == "an error inside the monitor"


def _clip(model: nn.Module, optimizer: Any) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def test_a_warning_that_is_an_error_does_not_end_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def faulty(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(readings.Readings, "collect", faulty)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(strict=False)
    assert "the monitor has stopped" in capsys.readouterr().err


def test_strict_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(gauges.Gauge, "_norm", faulty)
    with pytest.raises(ZeroDivisionError):
        trained(strict=True)
    assert global_hooks() == 0


def test_a_listener_that_raises_is_left_out() -> None:
    heard = []

    def listener(sampled: Any) -> None:
        heard.append(sampled.step)
        raise ValueError("not today")

    with pytest.warns(RuntimeWarning, match="not today"):
        monitor = _with_listener(listener)
    assert heard == [1]
    assert monitor.steps == 4


def _with_listener(listener: Any) -> Monitor:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, store=None, every=1, on_sample=listener) as monitor:
        for inputs, targets in batches(4):
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            monitor.step()
        assert monitor.enabled
    return monitor


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.gradscope"
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = batches(20)
    with Monitor(model, optimizer, store=path, strict=True) as monitor:
        for inputs, targets in data[:10]:
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            monitor.step(loss)
        child = os.fork()
        if not child:
            monitor.step(1.0)
            monitor.close("in a child")
            os._exit(0)
        os.waitpid(child, 0)
        for inputs, targets in data[10:]:
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    with open_run(path) as run:
        assert run.ended == ""
        assert len(run.losses()[0]) == 20


def test_a_monitor_that_was_left_behind_is_ended(tmp_path: Path) -> None:
    model = Net()
    first = Monitor(model, store=tmp_path / "run")
    with Monitor(model, store=tmp_path / "other"):
        assert first.enabled
    with Monitor(model, store=tmp_path / "run") as again:
        # As after an error in a notebook, whose cell is run again.
        first = Monitor(model, store=tmp_path / "run")
        assert not again.enabled
        assert first.enabled
    first.close()
    assert global_hooks() == 0


def test_an_interrupt_in_a_forward_leaves_nothing(tmp_path: Path) -> None:
    class Interrupted(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.interrupt:
                functional.relu(x)
                self.last(self.dropout(self.first(x)))
                raise KeyboardInterrupt
            return super().forward(x)

    model = Interrupted()
    for steps in (0, 3):
        model.interrupt = False
        with pytest.raises(KeyboardInterrupt), Monitor(model, store=None, every=1) as monitor:
            _some_steps_and_then(model, monitor, steps)
        assert hooks_on(model) == global_hooks() == 0
        assert _get_current_function_mode_stack() == []


def _some_steps_and_then(model: Any, monitor: Monitor, steps: int) -> None:
    for inputs, targets in batches(steps):
        functional.cross_entropy(model(inputs), targets).backward()
        monitor.step()
    model.interrupt = True
    model(batches(1)[0][0])


def stance() -> str:
    return str(torch._dynamo.eval_frame._stance.stance)


def test_a_constructor_that_fails_leaves_nothing() -> None:
    class Own(torch.optim.Optimizer):
        def __init__(self) -> None:
            self.param_groups = []
            self.defaults = {}

    with pytest.warns(RuntimeWarning, match="the monitor has stopped at step 0"):
        monitor = Monitor(Net(), Own(), store=None)
    assert not monitor.enabled
    assert stance() == "default"
    assert global_hooks() == 0


@pytest.mark.parametrize("step", [1, 5])
def test_who_listens_may_close_the_monitor(step: int) -> None:
    clips = dict(vars(clip_grad))
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def close(sampled: Any) -> None:
        if sampled.step == step:
            monitor.close()

    monitor = Monitor(model, optimizer, store=None, every=1, on_sample=close)
    for inputs, targets in batches(8):
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        monitor.step()
    assert monitor.steps == step
    assert global_hooks() == len(optimizer._optimizer_step_pre_hooks) == 0
    assert dict(vars(clip_grad)) == clips
    assert stance() == "default"


def test_a_monitor_that_is_dropped_leaves_nothing() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer, store=None, every=1)
    for inputs, targets in batches(4):
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        monitor.step()
    assert global_hooks() > 0
    del monitor
    gc.collect()
    assert global_hooks() == len(optimizer._optimizer_step_pre_hooks) == 0
    assert stance() == "default"


def test_what_is_traced_shows_nothing_of_it() -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    inputs = batches(1)[0][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = str(torch.jit.trace(model, inputs).inlined_graph)
        with Monitor(model, store=None, every=1, strict=True) as monitor:
            for _ in range(3):
                model(inputs).sum().backward()
                monitor.step()
            traced = torch.jit.trace(model, inputs)
    assert str(traced.inlined_graph).count("aten::") == plain.count("aten::")


def test_interrupted_runs_say_so(tmp_path: Path) -> None:
    path = tmp_path / "run.gradscope"
    model = Net()

    def interrupted() -> None:
        with Monitor(model, store=path) as monitor:
            inputs, targets = batches(1)[0]
            functional.cross_entropy(model(inputs), targets).backward()
            monitor.step(1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with open_run(path) as run:
        assert run.ended == "KeyboardInterrupt"
    assert hooks_on(model) == global_hooks() == 0
