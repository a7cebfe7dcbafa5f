"""A monitor leaves a training as it would have been, also when the monitor itself fails."""

from __future__ import annotations

import copy
import io
import os
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as modules_of_torch
from torch.nn.utils import clip_grad
from torch.overrides import _get_current_function_mode_stack

from gradscope.errors import UsageError
from gradscope.monitor import Monitor, gauges, hooks, optimizers, readings
from gradscope.store import open_run
from tests.gradscope.monitor.trainings import (
    CLASSES,
    FEATURES,
    Net,
    batches,
    parameter,
    same_weights,
    site,
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


def test_frozen_parts_that_thaw_are_seen() -> None:
    model = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)
    )
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows: list[Any] = []
    with Monitor(
        model, optimizer, store=None, every=1, on_sample=rows.append, strict=True, overhead=None
    ) as monitor:
        for number, (inputs, targets) in enumerate(batches(8)):
            if number == 5:
                model[0].requires_grad_(True)
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            monitor.step()
    first, last = rows[2], rows[-1]
    assert (
        parameter(first, "0.weight")["gradient_norm"]
        != parameter(first, "0.weight")["gradient_norm"]
    )
    assert site(first, "1")["backward_rms"] != site(first, "1")["backward_rms"]
    assert parameter(last, "0.weight")["gradient_norm"] > 0
    assert site(last, "1")["backward_rms"] > 0


def test_validation_in_between_is_not_measured() -> None:
    def validated(model: nn.Module, optimizer: Any) -> None:
        model.eval()
        with torch.no_grad():
            model(100 * torch.randn(16, FEATURES, generator=torch.Generator().manual_seed(0)))
        model.train()

    _, rows, _ = trained(after=validated)
    _, plain, _ = trained()
    assert site(rows[-1], "relu") == pytest.approx(site(plain[-1], "relu"), nan_ok=True)


def test_several_models_and_optimizers() -> None:
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, FEATURES), nn.Tanh())
    critic = nn.Sequential(
        nn.Linear(FEATURES, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Sigmoid()
    )
    one = torch.optim.Adam(generator.parameters())
    two = torch.optim.Adam(critic.parameters())
    rows: list[Any] = []
    models = {"generator": generator, "critic": critic}
    with Monitor(
        models, [one, two], store=None, every=1, on_sample=rows.append, strict=True, overhead=None
    ) as monitor:
        for inputs, _ in batches(5):
            fake = generator(torch.randn(16, 4))
            two.zero_grad()
            real = critic(inputs)
            made = critic(fake.detach())
            (
                functional.binary_cross_entropy(real, torch.ones_like(real))
                + functional.binary_cross_entropy(made, torch.zeros_like(made))
            ).backward()
            two.step()
            one.zero_grad()
            out = critic(fake)
            loss = functional.binary_cross_entropy(out, torch.ones_like(out))
            loss.backward()
            one.step()
            monitor.step(loss)
    names = [each.name for each in rows[-1].layout.sites]
    assert names == ["generator.1", "generator.3", "critic.1", "critic.3"]
    for name in names:
        assert site(rows[-1], name)["backward_rms"] > 0
    for each in rows[-1].layout.parameters:
        assert parameter(rows[-1], each.name)["update_norm"] > 0


def test_a_closure_makes_the_gradients_inside_the_step() -> None:
    model = Net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    rows: list[Any] = []
    with Monitor(
        model, optimizer, store=None, every=1, on_sample=rows.append, strict=True, overhead=None
    ) as monitor:
        for inputs, targets in batches(4):

            def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(inputs), targets)
                loss.backward()
                return loss

            monitor.step(optimizer.step(closure))
    found = parameter(rows[-1], "last.weight")
    assert found["gradient_norm"] == pytest.approx(model.last.weight.grad.norm().item(), rel=1e-4)
    assert found["update_norm"] > 0


def test_a_model_that_gains_a_layer_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.monitor.sampler._LOOKS", 1)
    model = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows: list[Any] = []
    with Monitor(
        model, optimizer, store=None, every=1, on_sample=rows.append, strict=True, overhead=None
    ) as monitor:
        for number, (inputs, targets) in enumerate(batches(8)):
            if number == 4:
                model.append(nn.Tanh())
                model.append(nn.Linear(CLASSES, CLASSES))
                optimizer.add_param_group({"params": model[6].parameters()})
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    assert [each.name for each in rows[0].layout.sites] == ["1", "3"]
    assert [each.name for each in rows[-1].layout.sites] == ["1", "3", "5"]
    assert parameter(rows[-1], "6.weight")["update_norm"] > 0
    # No loss was lost meanwhile.
    assert sum(len(each.losses) for each in rows) == 8


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


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.gradscope"
    trained(store=path, steps=10)
    _, rows, monitor = trained(store=path, steps=6)
    assert monitor is not None
    assert monitor.steps == 16
    assert rows[0].step == 11
    trained(store=path, steps=3, first_step=12)
    with open_run(path) as run:
        steps, losses = run.losses()
        assert steps.tolist() == list(range(15))
        assert len(losses) == 15
        assert len(run.sessions) == 3


def test_a_run_that_is_killed_has_lost_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses wait for no sample."""
    monkeypatch.setattr("gradscope.monitor.sampler._SECONDS", 0.0)
    written: list[int] = []
    original = Monitor.takes_losses

    def takes(self: Monitor, first: int, losses: Any) -> None:
        written.extend(range(first, first + len(losses)))
        original(self, first, losses)

    monkeypatch.setattr(Monitor, "takes_losses", takes)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows: list[Any] = []
    options: dict[str, Any] = {"every": 10, "dense": 0, "overhead": None, "on_sample": rows.append}
    with Monitor(model, optimizer, store=tmp_path / "run", strict=True, **options) as monitor:
        for number, (inputs, targets) in enumerate(batches(35)):
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            monitor.step(loss)
            if number > 1:
                assert number - 1 <= len(written) <= number + 1
    assert written == list(range(35))
    assert [len(each.losses) for each in rows] == [11, 10, 10]
    with open_run(tmp_path / "run") as run:
        assert run.losses()[0].tolist() == list(range(35))


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


def test_modules_without_a_hash_may_run_beside() -> None:
    @dataclass
    class Loss(nn.Module):
        weight: float

        def __post_init__(self) -> None:
            super().__init__()

        def forward(self, y: Tensor, targets: Tensor) -> Tensor:
            return self.weight * functional.cross_entropy(y, targets)

    model, loss = Net(), Loss(2.0)
    with Monitor(model, store=None, every=1, strict=True) as monitor:
        for inputs, targets in batches(4):
            loss(model(inputs), targets).backward()
            monitor.step()
        assert monitor.enabled


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_the_default_type_may_be_another(kind: torch.dtype) -> None:
    torch.set_default_dtype(kind)
    try:
        model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh())
        rows: list[Any] = []
        with Monitor(model, store=None, every=1, strict=True, on_sample=rows.append) as monitor:
            for inputs, _ in batches(4):
                model(inputs.to(kind)).square().mean().backward()
                monitor.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert site(rows[-1], "1")["backward_rms"] > 0
    assert parameter(rows[-1], "0.weight")["gradient_norm"] > 0


def test_lazy_modules_are_watched_once_they_are_made() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(batches(1)[0][0])
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 5))
    with Monitor(model, store=None, every=1, strict=True) as monitor:
        for inputs, targets in batches(3):
            functional.cross_entropy(model(inputs), targets).backward()
            monitor.step()
        assert monitor.enabled
    # Before its first batch it has no sizes; the monitor is there all the same.
    Monitor(lazy, store=None).close()


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every is a whole number"),
        ({"every": 1.5}, "every is a whole number"),
        ({"dense": -1}, "dense is a whole number"),
        ({"overhead": 0}, "overhead is a share above 0"),
        ({"compiled": "yes"}, "'eager' or 'in-graph'"),
        ({"optimizer": "adam"}, "optimizers of torch's, not a str"),
        ({"model": []}, "a module, or several"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    model: Any = arguments.pop("model", Net())
    with pytest.raises(UsageError, match=message):
        Monitor(model, store=None, **arguments)
