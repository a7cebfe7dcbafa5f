"""Sums of moments against the plain formulas in float64, in and out of the range of float32."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradscope.checkpoints.checkpoint import StoredTensor
from gradscope.checkpoints.evidence.moment_sums import Moments, moment_sums, norm

# Taken in float64 at once; cut into chunks by rows; one row longer than a chunk.
SHAPES: list[tuple[int, ...]] = [(40, 50), (60,), (300, 64, 5, 5), (3, 300_000)]
SCALES = {"second_scale": 1.5, "first_scale": 2.0, "eps": 1e-8}


def stored(tensor: Tensor) -> StoredTensor:
    return StoredTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def drawn(
    shape: tuple[int, ...], size: float = 1e-4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Second moment, first moment and weight; a second moment may be below what float32 holds."""
    generator = torch.Generator().manual_seed(0)
    first, weight, other = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    second = (other.abs() + 0.1) * size**2
    return second.to(dtype), (first * size).to(dtype), (weight * 0.02).to(dtype)


def reference(moments: Moments) -> list[Tensor]:
    def rows(tensor: Tensor) -> Tensor:
        return tensor.reshape(len(tensor), -1).sum(dim=1)

    v, m, w = (
        each.load().double()
        for each in (moments.second, moments.first, moments.weight)
        if each is not None
    )
    m, d = m * moments.first_scale, w * moments.decay
    square = (v * moments.second_scale) ** (1 if moments.squared else 2)
    step = (m / (square.sqrt() + moments.eps)).square()
    return [
        rows(square - 2 * d * m + d**2).clamp(min=0.0),
        rows((m - d) ** 2),
        rows(w**2),
        rows(step),
    ]


def assert_right(moments: Moments) -> None:
    sums = moment_sums(moments)
    found = (sums.second, sums.first, sums.weight, sums.step)
    for got, expected in zip(found, reference(moments), strict=True):
        assert got is not None
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_sums_are_those_of_float64(
    shape: tuple[int, ...], dtype: torch.dtype, decay: float, squared: bool
) -> None:
    tensors = drawn(shape, dtype=dtype)
    before = [each.clone() for each in tensors]
    assert_right(Moments(*map(stored, tensors), **SCALES, decay=decay, squared=squared))
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("size", [1e-22, 1e-15, 1e17])
def test_squares_that_do_not_fit_into_float32(size: float) -> None:
    second, first, weight = drawn((300, 500), size)
    assert_right(Moments(*map(stored, (second, first, weight)), **SCALES))


def test_rows_of_zeros_and_what_has_decayed_beside_others() -> None:
    second, first, weight = drawn((400, 300))
    second[:100] = first[:100] = 0.0
    first[100:200] *= 1e-30
    weight[50:150] = 0.0
    assert_right(Moments(*map(stored, (second, first, weight)), **SCALES))


def test_what_is_not_finite_shows_in_its_row_alone() -> None:
    second, first, weight = drawn((400, 300))
    first[7, 7] = math.nan
    sums = moment_sums(Moments(*map(stored, (second, first, weight)), **SCALES))
    assert sums.first is not None
    assert sums.first.isnan().nonzero().flatten().tolist() == [7]


def test_parameters_laid_side_by_side_are_one_row() -> None:
    second, first, _ = drawn(((1 << 20) + 5,))
    sums = moment_sums(Moments(stored(second), stored(first), None))
    assert sums.columns == len(second)
    assert sums.second is not None
    assert float(sums.second) == pytest.approx(float(second.double().sum()), rel=1e-6)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)], ids=str)
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    sums = moment_sums(Moments(stored(torch.zeros(shape)), None, None))
    assert sums.second is not None
    assert float(sums.second.sum()) == 0.0


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25])
def test_norm(size: float) -> None:
    tensor = (torch.randn(70, 900) * size).float()
    assert norm(stored(tensor)) == pytest.approx(float(tensor.double().norm()), rel=1e-6)
