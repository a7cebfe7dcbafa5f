"""ReDo: outputs stay, units live again, the optimizer forgets, and only once."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gradscope.errors import PlanError
from gradscope.patch import apply
from gradscope.records import Plan
from gradscope.remedies.recycle_dormant import recycle
from tests.gradscope.remedies.setting import entry, inputs, profiled, proposed, refused

DEAD = torch.tensor([1, 4, 5])


def half_dead() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias[DEAD] = -100  # type: ignore[index, operator]
    return model


def test_recycling_dead_units_keeps_outputs_and_revives_them() -> None:
    model, x = half_dead(), inputs(50, 6)
    units = torch.zeros(8, dtype=torch.bool)
    units[DEAD] = True
    before = model(x)
    with torch.no_grad():
        recycle(model[0], model[3], units)
    assert torch.equal(model(x), before)
    assert (model[1](model[0](x)) > 0).any(dim=0).all()
    assert not model[3].weight[:, DEAD].any()  # type: ignore[index, operator, union-attr]


def test_it_recycles_once_in_training_and_the_optimizer_forgets() -> None:
    model = half_dead()
    plan = Plan((entry("recycle-dormant", "1", threshold=0.025, steps=3),))
    patch = apply(model, plan)
    optimizer = patch.build_optimizer(model.parameters(), partial(torch.optim.Adam, lr=1e-3))
    first, last = model.get_parameter("0.weight"), model.get_parameter("3.weight")
    kept = [unit for unit in range(8) if unit not in DEAD]
    for step in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            model(inputs(40, 6, seed=step)), torch.arange(40) % 3
        ).backward()
        old = first[DEAD].detach().clone()
        optimizer.step()
        if step == 2:
            assert not torch.equal(first[DEAD], old)
            assert not last[:, DEAD].any()
            moments = optimizer.state[last]["exp_avg"], optimizer.state[first]["exp_avg_sq"]
            assert not moments[0][:, DEAD].any()
            assert not moments[1][DEAD].any()
            assert moments[0][:, kept].all()
            assert moments[1][kept].any()
            assert not model[1]._forward_hooks, "it has taken itself away"
        elif step < 2:
            assert torch.equal(first[DEAD], old)
    assert last[:, DEAD].any(), "they learn again"


def test_live_units_are_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    before = [value.clone() for value in model.parameters()]
    patch = apply(model, Plan((entry("recycle-dormant", "1", steps=1),)))
    optimizer = patch.build_optimizer(model.parameters(), partial(torch.optim.SGD, lr=0.0))
    model(inputs(40, 6)).sum().backward()
    optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))


def test_channels_are_units_of_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.Flatten()
    )
    with torch.no_grad():
        model[0].bias[2] = -100  # type: ignore[index, operator]
    (found,) = proposed("recycle-dormant", "GS201", model, profiled(model, 8, 3, 8, 8), "1")
    assert found.sites == ("1",)
    units = torch.arange(6) == 2
    x = inputs(8, 3, 8, 8)
    before = model(x)
    with torch.no_grad():
        recycle(model[0], model[3], units)
    assert torch.equal(model(x), before)
    assert not model.get_parameter("3.weight")[:, 2].any()


def test_units_that_lead_elsewhere_too_are_refused() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.act, self.two = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.one(x))
            return self.two(y) + y  # type: ignore[no-any-return]

    model = Branch()
    assert "between two" in refused("recycle-dormant", "GS201", model, profiled(model, 8, 8), "act")
    with pytest.raises(PlanError, match="another away from"):
        apply(model, Plan((entry("recycle-dormant", "act"),)))


def test_weights_of_several_layers_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    with pytest.raises(PlanError, match="trained and their own"):
        apply(model, Plan((entry("recycle-dormant", "1"),)))
