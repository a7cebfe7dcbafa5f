"""Which rows of a weight are alike, and which no gradient tells apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.profile.rows import Rows
from gradscope.records import ParameterProfile

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_that_equal_another_one(dtype: torch.dtype) -> None:
    weight = random(20, 5, dtype=dtype)
    assert Rows(weight).duplicates == 0
    weight[[4, 11, 17]] = weight[2].clone()
    weight[9] = weight[8]
    assert Rows(weight).duplicates == 6 / 20


def test_rows_of_filters_and_of_complex_numbers() -> None:
    filters = random(6, 2, 3, 3)
    filters[5] = filters[0]
    assert Rows(filters).duplicates == 2 / 6
    waves = torch.complex(random(6, 4), random(6, 4))
    waves[1] = waves[3].conj()
    assert Rows(waves).duplicates == 0
    waves[1] = waves[3]
    assert Rows(waves).duplicates == 2 / 6


def test_rows_of_the_same_numbers_in_another_order_differ() -> None:
    assert Rows(torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])).duplicates == 0


def test_neighbouring_numbers_are_not_equal() -> None:
    weight = torch.ones(2, 3)
    weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(2.0))
    assert Rows(weight).duplicates == 0
    assert Rows(torch.tensor([[0.0, 1.0], [-0.0, 1.0]])).duplicates == 1


def test_what_is_not_finite_equals_nothing() -> None:
    weight = torch.ones(6, 3)
    weight[:2, 0], weight[2:4, 1] = torch.nan, torch.inf
    rows = Rows(weight)
    assert rows.duplicates == 2 / 6
    rows.compare(torch.full((6, 3), torch.nan))
    assert rows.symmetric == 0


def test_rows_of_zeros_are_not_counted_until_nothing_can_wake_them() -> None:
    weight = random(8, 3)
    weight[:4] = 0
    rows = Rows(weight)
    assert rows.duplicates == 0
    gradient = random(8, 3)
    gradient[:2], gradient[3] = 0, gradient[2]
    rows.compare(gradient)
    assert rows.symmetric == 2 / 8
    rows.compare(random(8, 3) + 1)
    assert rows.symmetric == 0


def test_rows_are_symmetric_as_long_as_no_gradient_tells_them_apart() -> None:
    weight = random(1, 4).repeat(6, 1)
    rows = Rows(weight)
    assert rows.duplicates == 1
    assert rows.symmetric == 0, "without a gradient nothing is known"
    gradient = random(2, 4).repeat(3, 1)
    rows.compare(gradient * (1 + 1e-7 * random(6, 1)))
    assert rows.symmetric == 1
    rows.compare(torch.zeros(6, 4))
    assert rows.symmetric == 1
    # Of the rows 0, 2 and 4 one goes its own way; 1, 3 and 5 are as before.
    gradient[4] *= 1.01
    rows.compare(gradient)
    assert rows.symmetric == 5 / 6
    # What has been told apart stays so.
    rows.compare(random(1, 4).repeat(6, 1))
    assert rows.symmetric == 5 / 6
    # Row 0 equals row 2 in weights and gradients, and row 1 alike only in this gradient.
    gradient[0] = gradient[1]
    rows.compare(gradient)
    assert rows.symmetric == 3 / 6


def test_sparse_gradients_tell_nothing() -> None:
    rows = Rows(torch.ones(4, 2))
    rows.compare(torch.ones(4, 2).to_sparse(1))
    assert (rows.duplicates, rows.symmetric) == (1, 0)
    assert not rows.alike


def test_many_rows_are_few_comparisons() -> None:
    weight = random(30_000, 3)
    weight[20_000:20_100] = weight[:100]
    assert Rows(weight).duplicates == 200 / 30_000
    rows = Rows(torch.ones(30_000, 3))
    rows.compare(weight)
    assert rows.symmetric == pytest.approx(200 / 30_000, abs=1e-3)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    Rows(random(5, 5)).compare(random(5, 5))
    assert torch.equal(torch.get_rng_state(), before)


# --- In a profile -----------------------------------------------------------------------------


def parameters(
    model: nn.Module, optimizer: Callable[..., torch.optim.Optimizer] | None = None
) -> dict[str, ParameterProfile]:
    batches = [(random(12, 6) + k, torch.arange(12) % 3) for k in range(3)]
    profile = gradscope.profile(
        model,
        batches,
        lambda output, batch: nn.functional.cross_entropy(output, batch[1]),
        optimizer=optimizer and (lambda parameters: optimizer(parameters, lr=0.1)),
        steps=3,
    )
    return {entry.name: entry for entry in profile.parameters}


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD, torch.optim.Adam])
def test_constant_weights_keep_their_units_alike(
    optimizer: Callable[..., torch.optim.Optimizer] | None,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    for layer in model[::2]:
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    found = parameters(model, optimizer)
    assert [found[f"{i}.weight"].symmetric_rows for i in (0, 2)] == [1, 1]
    # The classes differ in their targets.
    assert (found["4.weight"].duplicate_rows, found["4.weight"].symmetric_rows) == (1, 0)
    assert found["0.bias"].duplicate_rows == 0, "a vector has no rows"


def test_units_that_start_alike_and_are_used_in_different_ways_are_not_symmetric() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.init.constant_(model[0].weight, 0.1)
    found = parameters(model)
    assert (found["0.weight"].duplicate_rows, found["0.weight"].symmetric_rows) == (1, 0)


def test_what_is_frozen_has_one_row_or_one_column_is_left_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 1), nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3)
    )
    for layer in model[:4:3]:
        nn.init.constant_(layer.weight, 0.1)
    nn.init.constant_(model[1].weight, 0.1)
    model[3].requires_grad_(False)
    found = parameters(model)
    assert [found[f"{i}.weight"].duplicate_rows for i in (0, 1, 3)] == [0, 0, 0]


def test_a_parameter_without_gradient_is_not_symmetric() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(6, 3), nn.Parameter(torch.ones(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    found = parameters(Spare())["spare"]
    assert (found.duplicate_rows, found.symmetric_rows) == (1, 0)
