"""How far a step moved each parameter, and which optimizers do not care for gradient scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.profile.parameters import epsilon_of, measured_update


def parameters() -> list[nn.Parameter]:
    return [
        nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64)),
        nn.Parameter(torch.zeros(2, dtype=torch.float64)),
        nn.Parameter(torch.ones(2, dtype=torch.float64)),
    ]


def test_squares_are_those_of_the_actual_update() -> None:
    weight, zero, idle = parameters()
    weight.grad = torch.tensor([0.0, 10.0], dtype=torch.float64)
    zero.grad = torch.ones(2, dtype=torch.float64)
    optimizer = torch.optim.SGD([weight, zero, idle], lr=0.1)
    moved = [(float(a), float(b)) for a, b in measured_update(optimizer, [weight, zero, idle])]
    assert moved == [(pytest.approx(1.0), 25.0), (pytest.approx(0.02), 0.0), (0.0, 2.0)]
    assert weight.tolist() == pytest.approx([3.0, 3.0])


def test_weight_decay_moves_a_parameter_whose_gradient_is_zero() -> None:
    weight, *_ = parameters()
    weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.5)
    ((change, size),) = measured_update(optimizer, [weight])
    assert float(change / size) == pytest.approx(0.05**2)


@pytest.mark.parametrize(
    ("build", "epsilon"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), None),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), None),
        (torch.optim.Adam, 1e-8),
        (lambda p: torch.optim.AdamW(p, eps=1e-5), 1e-5),
        (torch.optim.RMSprop, 1e-8),
        (torch.optim.Adagrad, 1e-10),
        (torch.optim.Adafactor, None),
        (lambda p: torch.optim.Adafactor(p, eps=(1e-30, 1e-3)), 1e-15),
    ],
)
def test_the_epsilon_of_optimizers_that_divide_by_the_gradient(
    build: Callable[[Iterable[Any]], Optimizer], epsilon: float | None
) -> None:
    found = epsilon_of(build(parameters()))
    assert found is None if epsilon is None else found == pytest.approx(epsilon)
