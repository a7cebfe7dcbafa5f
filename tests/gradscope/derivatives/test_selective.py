"""Idle units get the artificial derivative, live ones keep their own to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradscope.derivatives import derivative, derivatives
from gradscope.errors import PlanError
from tests.gradscope.derivatives.calling import ONE_OF_EACH, gradient, native_gradient
from tests.gradscope.derivatives.cases import Case

SELECTIVE = [case for case in ONE_OF_EACH if "selective" in vars(derivatives()[case.name]())]
EVERY = pytest.mark.parametrize("case", SELECTIVE, ids=lambda case: case.name)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Inputs at which each operator has less than 1 % of its largest slope, or none.
IDLE = {
    "relu-leaky": (-0.5, -4.0),
    "relu-logistic": (-0.5, -4.0),
    "relu6-logistic": (-0.5, 7.0),
    "hardtanh-logistic": (-1.5, 2.0),
    "hardsigmoid-logistic": (-3.5, 4.0),
    "hardswish-logistic": (-3.5, -5.0),
    "sigmoid-min": (-6.5, 7.0),
    "sigmoid-beta": (-6.5, 7.0),
    "tanh-min": (-3.5, 4.0),
}


def batch(case: Case, idle: tuple[int, ...], units: int, dtype: torch.dtype) -> Tensor:
    """(32, units): all live, but for the units named."""
    torch.manual_seed(0)
    x = torch.randn(32, units, dtype=torch.float64)
    x[0] = 0.5  # every operator is live here
    low, high = IDLE[case.name]
    for unit in idle:
        x[:, unit] = torch.where(x[:, unit] > 0, low, high)
    return x.to(dtype)


def test_those_with_idle_units_are_selective() -> None:
    assert {case.name for case in SELECTIVE} == set(IDLE)


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_live_networks_gradient_is_torchs_to_the_last_bit(case: Case, dtype: torch.dtype) -> None:
    x = batch(case, (), 37, dtype)
    upstream = torch.randn(32, 37).to(dtype)
    found = gradient(case, x, upstream, selective=True)
    assert torch.equal(found, native_gradient(case, x, upstream))


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("idle", [(2,), (0, 1, 2, 4), (0, 1, 2, 3, 4)], ids=["few", "many", "all"])
def test_idle_units_alone_get_the_artificial_derivative(
    case: Case, dtype: torch.dtype, strength: float, idle: tuple[int, ...]
) -> None:
    x = batch(case, idle, 5, dtype)
    upstream = torch.randn(32, 5).to(dtype)
    found = gradient(case, x, upstream, selective=True, strength=strength)
    native = native_gradient(case, x, upstream)
    artificial = gradient(case, x, upstream, strength=strength)
    for unit in range(5):
        if unit in idle:
            torch.testing.assert_close(found[:, unit], artificial[:, unit])
            assert bool(found[:, unit].any())
        else:
            assert torch.equal(found[:, unit], native[:, unit])


@EVERY
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channels_are_units_where_the_axis_says_so(case: Case, layout: torch.memory_format) -> None:
    flat = batch(case, (1,), 3, torch.float32)
    x = flat.reshape(2, 4, 4, 3).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    upstream = torch.randn(2, 3, 4, 4)
    found = gradient(case, x, upstream, selective=True, unit_axis=1)
    native = native_gradient(case, x, upstream)
    artificial = gradient(case, x, upstream)
    assert torch.equal(found[:, [0, 2]], native[:, [0, 2]])
    torch.testing.assert_close(found[:, 1], artificial[:, 1])
    assert torch.equal(found, gradient(case, x, upstream, selective=True, unit_axis=-3))


@EVERY
def test_the_second_derivative_is_that_of_each_units_own_derivative(case: Case) -> None:
    x = batch(case, (1,), 3, torch.float64)

    def second(call: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(call(leaf).square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.sum(), leaf)[0]

    found = second(derivative(case.name, {"selective": True}))
    torch.testing.assert_close(found[:, 1], second(derivative(case.name, {}))[:, 1])
    if case.name != "hardsigmoid-logistic":  # torch has no second derivative of it
        expected = second(lambda leaf: case.native(leaf, False))
        torch.testing.assert_close(found[:, [0, 2]], expected[:, [0, 2]])


@EVERY
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (), (4,)])
def test_without_a_batch_each_element_is_a_unit(case: Case, shape: tuple[int, ...]) -> None:
    for value in (*IDLE[case.name], 0.5):
        x = torch.full(shape, value, dtype=torch.float64)
        found = gradient(case, x, selective=True)
        expected = native_gradient(case, x, torch.ones(shape, dtype=torch.float64))
        if value != 0.5:
            expected = gradient(case, x)
        torch.testing.assert_close(found, expected)


@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1e-45, math.nan, -math.inf]), min_size=1))
def test_a_unit_of_relu_is_dead_where_it_is_never_positive(values: list[float]) -> None:
    x = torch.tensor(values)[:, None]
    case = next(case for case in SELECTIVE if case.name == "relu-logistic")
    upstream = torch.ones_like(x)
    live = any(value > 0 or math.isnan(value) for value in values)
    other = native_gradient(case, x, upstream) if live else gradient(case, x, upstream)
    found = gradient(case, x, upstream, selective=True)
    torch.testing.assert_close(found, other, equal_nan=True)


@pytest.mark.parametrize("parameter", [{"selective": 1}, {"unit_axis": 1.0}, {"unit_axis": True}])
def test_settings_that_cannot_be_meant(parameter: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="relu-logistic needs "):
        derivative("relu-logistic", parameter)


def test_an_axis_that_the_input_does_not_have() -> None:
    chosen = derivative("relu-logistic", {"selective": True, "unit_axis": 2})
    with pytest.raises(PlanError, match=r"has unit_axis 2, and was called on .* shape \(3, 4\)"):
        chosen(torch.zeros(3, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_where_values_may_not_be_looked_at_it_is_the_same() -> None:
    """Compiled code cannot branch on values: it computes both and chooses."""
    torch.manual_seed(0)
    chosen = derivative("relu-logistic", {"selective": True})
    layer = nn.Linear(4, 6)
    with torch.no_grad():
        layer.bias[2] = -50.0
    x = torch.randn(9, 4)
    expected = torch.autograd.grad(chosen(layer(x)).sum(), layer.weight)[0]
    assert bool(expected[2].any())
    compiled = torch.compile(lambda x: chosen(layer(x)), backend="eager", fullgraph=True)
    (found,) = torch.autograd.grad(compiled(x).sum(), layer.weight)
    torch.testing.assert_close(found, expected)


def test_relu_is_selective_unless_told_otherwise() -> None:
    x = torch.tensor([[0.5, -1.0], [-0.5, -2.0]], requires_grad=True)
    (found,) = torch.autograd.grad(derivative("relu-logistic", {})(x).sum(), x)
    # The first unit lives and keeps its step, the second is dead.
    torch.testing.assert_close(found[:, 0], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found[:, 1], torch.sigmoid(x[:, 1].detach()))


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), -1), ((5, 4, 3), -1), ((5, 3, 2, 2), 1)])
def test_without_an_axis_images_have_channels_and_all_else_features(
    shape: tuple[int, ...], axis: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    x.select(axis, 1).abs_().neg_()
    gradients = []
    for settings in ({}, {"unit_axis": axis}, {"unit_axis": 0}):
        leaf = x.clone().requires_grad_()
        y = derivative("relu-logistic", {"selective": True, **settings})(leaf)
        gradients.append(torch.autograd.grad(y.sum(), leaf)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert bool(gradients[0].select(axis, 1).all()), "the dead unit gets a gradient everywhere"
    assert not torch.equal(gradients[0], gradients[2])
