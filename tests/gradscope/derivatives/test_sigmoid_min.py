"""min(y, 1 - y) in the sigmoid's backward, against the formula written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradscope.derivatives.sigmoid_min import SigmoidMin
from gradscope.patching import reach

FINITE = st.lists(
    st.floats(-700, 700, allow_nan=False, width=32) | st.sampled_from([0.0, -0.0, 1e-45]),
    min_size=1,
    max_size=20,
)


def gradient(x: Tensor, upstream: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(SigmoidMin()(leaf), leaf, upstream)[0]


def true_gradient(x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(torch.sigmoid(leaf).sum(), leaf)[0]


@given(FINITE)
def test_the_derivative_is_the_smaller_of_y_and_its_complement(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    upstream = torch.linspace(-2, 2, len(values), dtype=torch.float64)
    expected = [
        g * math.exp(-abs(z)) / (1 + math.exp(-abs(z)))
        for g, z in zip(upstream.tolist(), x.tolist(), strict=True)
    ]
    assert gradient(x, upstream).tolist() == pytest.approx(expected, rel=1e-13, abs=1e-300)


@given(FINITE)
def test_it_is_bounded_by_a_half_and_never_against_the_true_derivative(
    values: list[float],
) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.tensor(values).to(dtype)
        found = gradient(x, torch.ones_like(x))
        assert bool((found >= 0).all())
        assert bool((found <= 0.5).all())
        # Between one and two times the true one, as far as the type resolves.
        # torch's own loses its digits where y is near 1, in the input's type.
        true = true_gradient(-x.double().abs())
        limits = torch.finfo(dtype)
        room = 1 + 16 * limits.eps
        assert bool((found * room + limits.tiny >= true).all())
        assert bool((found <= 2 * true * room + limits.tiny).all())


@pytest.mark.parametrize("x", [math.inf, -math.inf])
def test_at_infinity_there_is_none(x: float) -> None:
    assert float(gradient(torch.tensor([x]), torch.ones(1))) == 0


def test_what_is_no_number_stays_none() -> None:
    assert math.isnan(float(gradient(torch.tensor([math.nan]), torch.ones(1))))


def test_it_is_one_half_in_the_middle() -> None:
    assert gradient(torch.zeros(1), torch.ones(1)).tolist() == [0.5]


def test_the_module() -> None:
    module = nn.Sigmoid()
    reach(module, [("", SigmoidMin())])
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    y = module(x)
    assert torch.equal(y, torch.sigmoid(x))
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, torch.minimum(y, 1 - y))
    assert repr(module) == "Sigmoid(SigmoidMin(selective=False, unit_axis=None))"
