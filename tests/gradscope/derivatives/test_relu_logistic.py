"""sigma(k x) in ReLU's backward, against the formula written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradscope.derivatives.relu_logistic import ReLULogistic
from gradscope.patching import reach

FINITE = st.lists(
    st.floats(-1e4, 1e4, allow_nan=False, width=32) | st.sampled_from([0.0, -0.0, 1e-45, 5.7, 5.8]),
    min_size=1,
    max_size=20,
)
STEEPNESS = st.sampled_from([0.1, 1.0, 3.5, 20.0])


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def gradient(k: float, x: Tensor, upstream: Tensor, inplace: bool = False) -> Tensor:
    leaf = x.clone().requires_grad_()
    y = ReLULogistic(k, selective=False)(leaf * 1 if inplace else leaf, inplace)
    return torch.autograd.grad(y, leaf, upstream)[0]


@given(FINITE, STEEPNESS, st.booleans())
def test_the_derivative_is_the_logistic_function(
    values: list[float], k: float, inplace: bool
) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.tensor(values).to(dtype)
        upstream = torch.linspace(-2, 2, len(values)).to(dtype)
        found = gradient(k, x, upstream, inplace).tolist()
        for z, g, derivative in zip(x.tolist(), upstream.tolist(), found, strict=True):
            # exp(kx) loses as many digits as kx has before its point.
            exactness = torch.finfo(dtype).eps * (4 + abs(k * z))
            expected = g * logistic(k * z)
            assert derivative == pytest.approx(expected, rel=exactness, abs=1e-37)


@given(FINITE, STEEPNESS)
def test_it_is_bounded_by_one_and_never_against_the_true_derivative(
    values: list[float], k: float
) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.tensor(values).to(dtype)
        found = gradient(k, x, torch.ones_like(x))
        assert bool((found >= 0).all())
        assert bool((found <= 1).all())
        leaf = x.clone().requires_grad_()
        (true,) = torch.autograd.grad(torch.relu(leaf).sum(), leaf)
        assert bool((true * found >= 0).all())
        assert bool((found[true > 0] >= 0.5).all())


def test_where_the_input_is_not_finite() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan])
    found = gradient(3.5, x, torch.ones(3))
    assert found[:2].tolist() == [1.0, 0.0]
    assert math.isnan(float(found[2]))


@pytest.mark.parametrize("k", [0.5, 3.5])
def test_dead_units_have_a_gradient(k: float) -> None:
    x = torch.tensor([-3.0, -1.0])
    assert bool((gradient(k, x, torch.ones(2)) > 0).all())


# --- In place ---------------------------------------------------------------------------------


def test_in_place_writes_into_its_input_as_relu_does() -> None:
    leaf = torch.tensor([-1.0, 2.0], requires_grad=True)
    x, native = leaf * 1, leaf * 1
    y = ReLULogistic(selective=False)(x, inplace=True)
    assert y is x
    assert y.data_ptr() == x.data_ptr()
    assert torch.equal(x, torch.relu_(native))
    with torch.no_grad():
        plain = torch.tensor([-1.0, 2.0])
        assert ReLULogistic(selective=False)(plain, inplace=True) is plain
        assert plain.tolist() == [0.0, 2.0]


def test_in_place_on_a_view_reaches_the_base() -> None:
    leaf = torch.linspace(-2, 2, 12).reshape(3, 4).requires_grad_()
    base = leaf * 1
    ReLULogistic(2.0, selective=False)(base[:, 1:3], inplace=True)
    assert torch.equal(base[:, 1:3], torch.relu(leaf[:, 1:3]))
    (found,) = torch.autograd.grad(base.sum(), leaf)
    expected = torch.ones(3, 4)
    expected[:, 1:3] = torch.sigmoid(2 * leaf.detach()[:, 1:3])
    torch.testing.assert_close(found, expected)


def test_in_place_differentiates_twice_as_out_of_place_does() -> None:
    found = []
    for inplace in (False, True):
        leaf = torch.linspace(-2, 2, 5, dtype=torch.float64, requires_grad=True)
        y = ReLULogistic(1.5, selective=False)(leaf * 2, inplace)
        (first,) = torch.autograd.grad(y.sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), leaf)
        s = torch.sigmoid(3 * leaf.detach())
        torch.testing.assert_close(second, 2 * 2 * 1.5 * s * (1 - s))
        found.append(second)
    assert torch.equal(*found)


def test_in_place_under_vmap() -> None:
    x = torch.linspace(-3, 3, 6).reshape(2, 3)
    chosen = ReLULogistic(2.0, selective=False)
    found = torch.vmap(torch.func.grad(lambda row: chosen(row * 1, inplace=True).sum()))(x)
    torch.testing.assert_close(found, torch.sigmoid(2 * x))


def test_the_module_keeps_what_relu_says_of_itself() -> None:
    module = nn.ReLU(inplace=True)
    reach(module, [("", ReLULogistic(2.0))])
    assert repr(module) == (
        "ReLU(inplace=True, ReLULogistic(selective=True, unit_axis=None, k=2.0))"
    )
    assert isinstance(module, nn.ReLU)
