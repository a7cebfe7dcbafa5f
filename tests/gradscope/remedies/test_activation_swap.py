"""Other activations: which can be had, and what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradscope.patch import apply
from gradscope.records import Plan
from gradscope.rules.subjects import perceptron
from tests.gradscope.remedies.setting import entry, inputs, profiled, proposed

KINDS = {
    "relu": nn.functional.relu,
    "leaky-relu": nn.functional.leaky_relu,
    "tanh": torch.tanh,
    "selu": nn.functional.selu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "elu": nn.functional.elu,
}


@pytest.mark.parametrize("name", KINDS)
def test_each_activation_computes_what_it_is_called(name: str) -> None:
    model = perceptron(nn.Sigmoid, layers=1)
    x = inputs(5, 32)
    expected = model[2](KINDS[name](model[0](x)))
    with apply(model, Plan((entry("activation-swap", "1", activation=name),))):
        assert torch.equal(model(x), expected)


def test_isigmoid_has_the_papers_three_parts() -> None:
    pytest.importorskip("gradscope.derivatives.isigmoid")
    model = perceptron(nn.Sigmoid, layers=1)
    with apply(model, Plan((entry("activation-swap", "1", activation="isigmoid"),))):
        x = torch.tensor([-3.0, -2.0, 0.0, 2.0, 3.0])
        y = model[1](x)
    assert y[2] == 0.5
    assert y[4] - y[3] == pytest.approx(1.0, abs=1e-5), "slope 1 outside, as in the experiments"
    assert y[1] - y[0] == pytest.approx(1.0, abs=1e-5)


def test_dead_units_get_what_passes_a_gradient_below_zero() -> None:
    model = perceptron(nn.ReLU, layers=2)
    profile = profiled(model, 16, 32)
    found = proposed("activation-swap", "GS201", model, profile, "3")
    assert [each.parameters["activation"] for each in found] == ["leaky-relu", "gelu"]
    assert {each.sites for each in found} == {("3",)}
