"""Optimizers: SDAGD against its formula, momentum with the present groups, Adam as it comes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.errors import PlanError
from gradscope.patch import apply
from gradscope.records import Plan
from gradscope.remedies.sdagd import SDAGD
from gradscope.rules.subjects import perceptron
from tests.gradscope.remedies.setting import entry, inputs, profiled, proposed


def test_sdagd_follows_its_formula() -> None:
    """Against plain Python numbers, one weight at a time."""
    weights = [[0.5, -1.0, 2.0], [0.1]]
    radius, decay, rate = 0.2, 0.8, 0.7
    parameters = [nn.Parameter(torch.tensor(each, dtype=torch.float64)) for each in weights]
    optimizer = SDAGD(parameters, lr=rate, radius=radius, decay=decay)
    means = [[0.0] * len(each) for each in weights]
    for step in range(1, 6):
        gradients = [[math.sin(step * w + i) for i, w in enumerate(each)] for each in weights]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        for weight, gradient, mean in zip(weights, gradients, means, strict=True):
            length = math.sqrt(sum(each**2 for each in gradient))
            for i, g in enumerate(gradient):
                mean[i] = decay * mean[i] + (1 - decay) * g**2
                h = mean[i] / (1 - decay**step)
                weight[i] -= rate * g / (length / radius + h)
        for parameter, weight in zip(parameters, weights, strict=True):
            torch.testing.assert_close(parameter.data, torch.tensor(weight, dtype=torch.float64))


def test_where_it_is_flat_sdagd_moves_each_layer_by_the_radius() -> None:
    for size in (1e-3, 1e-9, 1e-15, 1e-30):
        parameter = nn.Parameter(torch.zeros(50))
        parameter.grad = size * torch.ones(50)
        SDAGD([parameter], radius=0.1).step()
        assert parameter.norm().item() == pytest.approx(0.1, rel=1e-2)
    parameter.grad = torch.zeros(50)
    before = parameter.detach().clone()
    SDAGD([parameter]).step()
    assert torch.equal(parameter, before)


def test_sdagd_is_saved_and_refuses_nonsense() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    one, other = SDAGD([parameter]), SDAGD([parameter])
    one.step()
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.state[parameter]["curvature"], one.state[parameter]["curvature"])
    for wrong in ({"radius": 0.0}, {"decay": 1.0}, {"lr": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SDAGD([parameter], **wrong)


def optimizer_of(original: partial[Optimizer], **parameters: str | float) -> Optimizer:
    model = perceptron(nn.Sigmoid, layers=1)
    patch = apply(model, Plan((entry("optimizer-swap", **parameters),)))
    return patch.build_optimizer(model.parameters(), original)


def test_momentum_keeps_the_present_learning_rate() -> None:
    swapped = optimizer_of(partial(torch.optim.SGD, lr=0.3, weight_decay=0.1), optimizer="momentum")
    (group,) = swapped.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.9, 0.1)
    given = optimizer_of(
        partial(torch.optim.SGD, lr=0.3), optimizer="momentum", lr=0.2, momentum=0.5
    )
    assert (given.param_groups[0]["lr"], given.param_groups[0]["momentum"]) == (0.2, 0.5)


def test_momentum_is_not_given_twice() -> None:
    with pytest.raises(PlanError, match="already"):
        optimizer_of(partial(torch.optim.SGD, lr=0.3, momentum=0.9), optimizer="momentum")


def test_groups_of_parameters_stay_with_momentum() -> None:
    def grouped(parameters: Iterable[nn.Parameter]) -> Optimizer:
        first, *others = list(parameters)
        groups = [{"params": [first], "lr": 0.5}, {"params": others}]
        return torch.optim.SGD(groups, lr=0.1)

    model = perceptron(nn.Sigmoid, layers=1)
    patch = apply(model, Plan((entry("optimizer-swap", optimizer="momentum"),)))
    swapped = patch.build_optimizer(model.parameters(), grouped)
    assert [group["lr"] for group in swapped.param_groups] == [0.5, 0.1]


def test_each_is_proposed_for_a_gradient_that_decays() -> None:
    model = perceptron(nn.Sigmoid, layers=3)
    found = proposed("optimizer-swap", "GS101", model, profiled(model, 16, 32))
    assert [each.parameters["optimizer"] for each in found] == ["adam", "sdagd", "momentum"]


@pytest.mark.parametrize("name", ["adam", "sdagd", "momentum"])
def test_each_trains(name: str) -> None:
    torch.manual_seed(0)
    model = perceptron(nn.Tanh, layers=2)
    x, y = inputs(64, 32), torch.arange(64) % 10
    patch = apply(model, Plan((entry("optimizer-swap", optimizer=name),)))
    optimizer = patch.build_optimizer(model.parameters(), partial(torch.optim.SGD, lr=0.1))
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
