"""The numbers of a row are those that plain torch gives for the same step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from gradscope.monitor import Monitor
from tests.gradscope.monitor.trainings import (
    BATCH,
    FEATURES,
    Net,
    batches,
    parameter,
    same_weights,
    site,
    step_measure,
    trained,
)

CHECKPOINTED = ["", "reentrant", "non-reentrant"]


def norm(x: Tensor) -> float:
    return x.detach().norm().item()


def rms(x: Tensor) -> float:
    return x.detach().square().mean().sqrt().item()


def by_hand(micro: int = 1, scale: float = 1.0) -> dict[str, Any]:
    """The seventh step of the same training, with what it shows kept whole."""
    model, _, _ = trained(monitored=False, steps=6, micro=micro)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    outputs: dict[str, list[Tensor]] = {"relu": [], "middle.1": [], "::tanh@0": []}

    def keep(name: str, y: Tensor) -> None:
        y.retain_grad()
        outputs[name].append(y)

    state = torch.get_rng_state()
    hooks = [
        model.relu.register_forward_hook(lambda m, i, y: keep("relu", y)),
        model.middle[1].register_forward_hook(lambda m, i, y: keep("middle.1", y)),
        model.last.register_forward_pre_hook(lambda m, i: keep("::tanh@0", i[0])),
    ]
    optimizer.zero_grad()
    losses = []
    for inputs, targets in batches(7 * micro)[6 * micro :]:
        loss = functional.cross_entropy(model(inputs), targets) / micro
        (loss * scale).backward()
        losses.append(loss.item())
    for hook in hooks:
        hook.remove()
    torch.set_rng_state(state)
    gradients = {name: each.grad.clone() for name, each in model.named_parameters()}
    return {"outputs": outputs, "gradients": gradients, "losses": losses, "model": model}


@pytest.mark.parametrize("checkpointed", CHECKPOINTED)
@pytest.mark.parametrize("micro", [1, 3])
def test_sites_are_measured_once_and_right(checkpointed: str, micro: int) -> None:
    _, rows, _ = trained(lambda: Net(checkpointed=checkpointed), steps=7, micro=micro)
    expected = by_hand(micro)
    row = rows[-1]
    assert [each.name for each in row.layout.sites] == ["relu", "middle.1", "::tanh@0"]
    for name, outputs in expected["outputs"].items():
        values = torch.stack([y.detach() for y in outputs])
        gradients = torch.stack([y.grad for y in outputs]) * BATCH
        found = site(row, name)
        assert found["forward_rms"] == pytest.approx(rms(values), rel=1e-5)
        assert found["backward_rms"] == pytest.approx(rms(gradients), rel=1e-5)
    total = math.sqrt(sum(float(g.square().sum()) for g in expected["gradients"].values()))
    assert step_measure(row, "gradient_norm") == pytest.approx(total, rel=1e-5)
    assert step_measure(row, "used_norm") == pytest.approx(total, rel=1e-5)
    assert step_measure(row, "loss") == pytest.approx(expected["losses"][-1], rel=1e-6)
    assert step_measure(row, "learning_rate") == pytest.approx(1e-2)
    for name, gradient in expected["gradients"].items():
        assert parameter(row, name)["gradient_norm"] == pytest.approx(norm(gradient), rel=1e-5)


@pytest.mark.parametrize("checkpointed", CHECKPOINTED)
@pytest.mark.parametrize("inplace", [False, True])
def test_training_ends_with_the_same_bits(checkpointed: str, inplace: bool) -> None:
    def build() -> nn.Module:
        return Net(inplace=inplace, checkpointed=checkpointed)

    watched, rows, _ = trained(build, exact=True)
    alone, _, _ = trained(build, monitored=False)
    assert len(rows) == 7
    assert same_weights(watched, alone)


def test_updates_are_what_the_optimizer_did() -> None:
    before: dict[str, Tensor] = {}

    def remember(model: nn.Module, optimizer: Optimizer) -> None:
        before.update({name: each.detach().clone() for name, each in model.named_parameters()})

    model, rows, _ = trained(after=remember)
    for name, each in model.named_parameters():
        found = parameter(rows[-1], name)
        assert found["weight_norm"] == pytest.approx(norm(before[name]), rel=1e-5)
        assert found["update_norm"] == pytest.approx(norm(each - before[name]), rel=1e-4)


def test_a_part_of_a_large_parameter_stands_for_it() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 3000), nn.Tanh(), nn.Linear(3000, 5))

    before: dict[str, Tensor] = {}

    def remember(model: nn.Module, optimizer: Optimizer) -> None:
        before.update({name: each.detach().clone() for name, each in model.named_parameters()})

    model, rows, _ = trained(build, after=remember)
    _, exact, _ = trained(build, exact=True)
    name = "0.weight"
    moved = norm(model[0].weight - before[name])
    found = parameter(rows[-1], name)
    assert found["update_norm"] == pytest.approx(moved, rel=0.05)
    assert found["update_norm"] != pytest.approx(moved, rel=1e-6)
    assert found["weight_norm"] == pytest.approx(norm(before[name]), rel=0.05)
    assert parameter(exact[-1], name)["update_norm"] == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_other_types_are_measured(kind: torch.dtype) -> None:
    class Typed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.to(kind)).float()

    model, rows, _ = trained(lambda: Typed().to(kind))
    _, plain, _ = trained()
    assert site(rows[0], "relu")["forward_rms"] == pytest.approx(
        site(plain[0], "relu")["forward_rms"], rel=0.3
    )
    found = parameter(rows[-1], "last.weight")
    assert found["gradient_norm"] == pytest.approx(norm(model.last.weight.grad), rel=1e-2)
    assert found["update_norm"] > 0


def test_clipping_shows_the_norm_before_and_after() -> None:
    norms: list[float] = []

    def clip(model: nn.Module, optimizer: Optimizer) -> None:
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.01)))

    _, rows, _ = trained(after=clip)
    assert step_measure(rows[-1], "gradient_norm") == pytest.approx(norms[-1], rel=1e-5)
    assert step_measure(rows[-1], "used_norm") == pytest.approx(0.01, rel=1e-3)


def test_parts_that_are_clipped_apart_are_seen_before_it() -> None:
    norms: list[float] = []

    def clip(model: nn.Module, optimizer: Optimizer) -> None:
        parts = [
            [*model.first.parameters()],
            [*model.middle.parameters(), *model.last.parameters()],
        ]
        found = [float(nn.utils.clip_grad_norm_(part, 0.01)) for part in parts]
        norms.append(math.hypot(*found))

    _, rows, _ = trained(after=clip)
    assert step_measure(rows[-1], "gradient_norm") == pytest.approx(norms[-1], rel=1e-5)
    assert step_measure(rows[-1], "used_norm") == pytest.approx(0.01 * math.sqrt(2), rel=1e-3)


def test_a_part_alone_may_be_clipped() -> None:
    whole: list[float] = []

    def clip(model: nn.Module, optimizer: Optimizer) -> None:
        whole.append(math.hypot(*[norm(each.grad) for each in model.parameters()]))
        nn.utils.clip_grad_norm_(model.first.parameters(), 0.001)

    _, rows, _ = trained(after=clip)
    assert step_measure(rows[-1], "gradient_norm") == pytest.approx(whole[-1], rel=1e-5)
    assert step_measure(rows[-1], "used_norm") < 0.999 * whole[-1]


def test_a_gradient_of_zero_leaves_the_others_as_they_are() -> None:
    class Unused(Net):
        def __init__(self) -> None:
            super().__init__()
            self.off = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0 * self.off.sum()

    _, rows, _ = trained(Unused)
    _, plain, _ = trained()
    assert parameter(rows[-1], "off")["gradient_norm"] == 0
    for name in ("first.weight", "last.bias"):
        assert parameter(rows[-1], name) == pytest.approx(parameter(plain[-1], name), rel=1e-6)


def test_the_scale_of_a_loss_is_undone_and_skipped_steps_are_counted() -> None:
    def run(scaled: bool) -> tuple[list[Any], Monitor]:
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3, enabled=scaled)
        rows: list[Any] = []
        monitor = Monitor(
            model, optimizer, scaler=scaler, every=1, store=None, on_sample=rows.append,
            strict=True, overhead=None,
        )  # fmt: skip
        for number, (inputs, targets) in enumerate(batches(6)):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), targets)
            scaler.scale(loss).backward()
            if scaled and number == 4:
                model.last.weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            monitor.step(loss)
        monitor.close()
        return rows, monitor

    scaled, monitor = run(scaled=True)
    plain, _ = run(scaled=False)
    assert monitor.skipped_steps == 1
    # The fifth step (the fourth row) was not taken.
    assert math.isnan(step_measure(scaled[3], "used_norm"))
    for name in ("relu", "::tanh@0"):
        assert site(scaled[2], name) == pytest.approx(site(plain[2], name), rel=1e-4, nan_ok=True)
    for measure in ("gradient_norm", "used_norm"):
        assert step_measure(scaled[2], measure) == pytest.approx(
            step_measure(plain[2], measure), rel=1e-4
        )


def test_dead_and_saturated_units_are_counted() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(
            nn.Linear(FEATURES, 10), nn.ReLU(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 5)
        )
        with torch.no_grad():
            model[0].bias[:3] = -50.0
            model[0].bias[3:5] = 50.0
            model[2].weight[:, 3:5] = 0.0
            model[2].bias[:2] = 500.0
        return model

    _, rows, _ = trained(
        build, steps=140, optimizer_of=lambda m: torch.optim.SGD(m.parameters(), 0)
    )
    early, late = rows[20], rows[-1]
    assert math.isnan(site(early, "1")["dead"])
    assert site(late, "1")["dead"] == pytest.approx(0.3)
    assert site(late, "1")["always_positive"] == pytest.approx(0.2)
    assert math.isnan(site(late, "1")["saturated"])
    assert site(late, "3")["saturated"] == pytest.approx(2 / 8)
    assert math.isnan(site(late, "3")["dead"])


def test_a_layer_that_dies_in_the_midst_of_a_training_is_seen_soon() -> None:
    """Not only once two thousand observations have forgotten that it was alive."""
    died = 60

    def kill(model: nn.Module, optimizer: Optimizer) -> None:
        kill.calls += 1  # type: ignore[attr-defined]
        if kill.calls == died:  # type: ignore[attr-defined]
            with torch.no_grad():
                model.middle[0].bias.fill_(-1e3)

    kill.calls = 0  # type: ignore[attr-defined]
    _, rows, _ = trained(steps=120, after=kill)
    dead = {each.step: site(each, "middle.1")["dead"] for each in rows}
    assert not dead[died - 2] > 0.9
    assert dead[died + 40] == 1.0


def test_a_unit_is_saturated_at_either_end() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(FEATURES, 4), nn.Sigmoid(), nn.Linear(4, 5), nn.Tanh())
        with torch.no_grad():
            model[0].weight[:1] *= 1e4
        return model

    _, rows, _ = trained(
        build, steps=140, optimizer_of=lambda m: torch.optim.SGD(m.parameters(), 0)
    )
    assert site(rows[-1], "1")["saturated"] == pytest.approx(1 / 4)
    assert site(rows[-1], "3")["saturated"] == 0


def test_convolutions_count_channels_at_every_size() -> None:
    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 6, 3, padding=1)
            self.second = nn.Conv2d(6, 4, 3, stride=4)
            self.head = nn.Linear(4 * 2 * 2, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.first(x[:, :8].reshape(-1, 1, 8, 1).expand(-1, 1, 8, 8)))
            return self.head(functional.relu_(self.second(x)).flatten(1))

    def build() -> nn.Module:
        model = Convolutions()
        with torch.no_grad():
            model.first.bias[1] = -100.0
            model.second.bias[:2] = -100.0
        return model

    _, rows, _ = trained(build, steps=80, optimizer_of=lambda m: torch.optim.SGD(m.parameters(), 0))
    assert site(rows[-1], "::relu@0")["dead"] == pytest.approx(1 / 6)
    assert site(rows[-1], "::relu@1")["dead"] == pytest.approx(1 / 2)


def test_signals_that_float32_cannot_square_are_seen() -> None:
    class Faint(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 1e-25

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(FEATURES, 10)
            self.second = nn.Linear(10, 10)
            self.last = nn.Linear(10, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.tanh(self.first(x))
            return self.last(functional.tanh(self.second(Faint.apply(x))))

    _, rows, _ = trained(Model, steps=6)
    assert 1e-30 < site(rows[-1], "::tanh@0")["backward_rms"] < 1e-22
    assert 1e-30 < parameter(rows[-1], "first.weight")["gradient_norm"] < 1e-22
    assert site(rows[-1], "::tanh@1")["backward_rms"] > 1e-6
