"""Trainings of all kinds, and what a monitor sees of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.errors import UsageError
from gradscope.monitor import Monitor
from gradscope.store import open_run
from tests.gradscope.monitor.trainings import (
    CLASSES,
    FEATURES,
    Net,
    batches,
    parameter,
    site,
    trained,
)


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


@pytest.mark.parametrize("loss", [torch.ones(1), torch.ones(3), None, 1, float("nan"), 2.0])
def test_losses_of_any_shape_are_taken(loss: Any) -> None:
    model = Net()
    rows: list[Any] = []
    with Monitor(model, store=None, every=1, strict=True, on_sample=rows.append) as monitor:
        for inputs, targets in batches(3):
            functional.cross_entropy(model(inputs), targets).backward()
            monitor.step(loss)
    assert len(rows) == 2


def test_names_of_models_may_be_any() -> None:
    models = {"net.a": Net(), "keys": Net()}
    with Monitor(models, store=None, every=1, strict=True) as monitor:
        for inputs, targets in batches(3):
            for model in models.values():
                functional.cross_entropy(model(inputs), targets).backward()
            monitor.step()
        assert monitor.layout is not None
        names = {each.name.split(".")[0] for each in monitor.layout.parameters}
    assert names == {"net_a", "keys_"}


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
