"""Isigmoid is the paper's equations 5 and 6."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradscope.derivatives.isigmoid import Isigmoid


def equation_5(x: Tensor, a: float, alpha: float) -> Tensor:
    end = 1 / (1 + math.exp(-a))
    y = torch.sigmoid(x)
    y = torch.where(x >= a, alpha * (x - a) + end, y)
    return torch.where(x <= -a, alpha * (x + a) + (1 - end), y)


@pytest.mark.parametrize(("a", "alpha"), [(0.01, 1.0), (7.0, 0.01), (2.0, 0.1)])
def test_its_values_and_slopes(a: float, alpha: float) -> None:
    edges = torch.tensor([-a, a, -math.nextafter(a, 9), math.nextafter(a, 9)], dtype=torch.float64)
    x = torch.cat([torch.linspace(-12, 12, 2001, dtype=torch.float64), edges])
    x.requires_grad_()
    y = Isigmoid(a, alpha)(x)
    torch.testing.assert_close(y, equation_5(x, a, alpha), rtol=1e-14, atol=1e-14)
    (slope,) = torch.autograd.grad(y.sum(), x)
    inside = x.detach().abs() < a
    s = torch.sigmoid(x.detach())
    off_the_kink = x.detach().abs() != a
    expected = torch.where(inside, s * (1 - s), torch.full_like(s, alpha))
    torch.testing.assert_close(slope[off_the_kink], expected[off_the_kink])


def test_beyond_all_numbers() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan])
    y = Isigmoid()(x)
    assert y[:2].tolist() == [math.inf, -math.inf]
    assert y[2].isnan()
