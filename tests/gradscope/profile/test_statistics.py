"""Each statistic against NumPy in float64: for every shape, type and scale a tensor may have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradscope.profile import statistics, sums

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4)
TYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])


def values(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def exact(x: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return x.double().numpy()


def seen(x: Tensor) -> dict[str, float]:
    """The numbers that a profile has of an output."""
    return {name: float(value) for name, value in sums.numbers(sums.forward_sums(x, None)).items()}


def correlation(x: Tensor) -> float:
    """Pair by pair, which is slow and has nothing in common with the sum of all."""
    rows = exact(x).reshape(len(x), -1)[:64]
    rows = rows - rows.mean(axis=1, keepdims=True)
    pairs = [
        float(a @ b / math.sqrt((a @ a) * (b @ b))) if (a @ a) * (b @ b) > 0 else 0.0
        for i, a in enumerate(rows)
        for j, b in enumerate(rows)
        if i != j
    ]
    return math.fsum(pairs) / len(pairs)


@given(SHAPES, TYPES, st.integers(0, 1000))
def test_against_numpy(shape: list[int], dtype: torch.dtype, seed: int) -> None:
    x = values(shape, dtype, seed)
    wide = exact(x)
    assert seen(x)["forward_rms"] == pytest.approx(math.sqrt((wide**2).mean()), rel=1e-5, abs=0)
    assert float(statistics.norm(x)) == pytest.approx(float(np.linalg.norm(wide)), rel=1e-5, abs=0)
    assert int(statistics.nonfinite(x)) == 0
    if len(x) < 2:
        assert math.isnan(seen(x)["variation"])
        assert math.isnan(seen(x)["correlation"])
        return
    variation = math.sqrt(wide.var(axis=0).mean() / (wide**2).mean())
    assert seen(x)["variation"] == pytest.approx(variation, rel=1e-5, abs=0)
    if x[0].numel() > 1:
        assert seen(x)["correlation"] == pytest.approx(correlation(x), abs=1e-5)


# float32 holds numbers from 1e-45 to 3e38, but their squares only from 1e-23 to 2e19.
SCALES = [1e-36, 1e-30, 1e-20, 1e-13, 1e-6, 1.0, 1e6, 1e18, 1e25, 1e36]


@pytest.mark.parametrize("scale", SCALES)
def test_the_scale_of_a_signal_is_measured_wherever_its_type_reaches(scale: float) -> None:
    x = (values([8, 16], torch.float64, 0) * scale).float()
    wide = exact(x)
    assert seen(x)["forward_rms"] == pytest.approx(math.sqrt((wide**2).mean()), rel=1e-5, abs=0)
    assert float(statistics.norm(x)) == pytest.approx(float(np.linalg.norm(wide)), rel=1e-5, abs=0)


@pytest.mark.parametrize("scale", SCALES)
def test_how_alike_samples_are_does_not_depend_on_their_scale(scale: float) -> None:
    x = (values([8, 16], torch.float64, 0) * scale).float()
    wide = exact(x)
    variation = math.sqrt(wide.var(axis=0).mean() / (wide**2).mean())
    assert seen(x)["variation"] == pytest.approx(variation, rel=1e-5, abs=0)
    assert seen(x)["correlation"] == pytest.approx(correlation(x), abs=1e-5)


@pytest.mark.parametrize("apart", [1e-1, 1e-3, 1e-5])
def test_nearly_equal_samples_are_told_from_equal_ones(apart: float) -> None:
    common = 1 + values([1, 200], torch.float64, 0)
    x = (common + apart * values([32, 200], torch.float64, 1)).float()
    assert seen(x)["variation"] == pytest.approx(
        math.sqrt(exact(x).var(axis=0).mean() / (exact(x) ** 2).mean()), rel=1e-3
    )
    assert 0 < seen(x)["variation"] < 2 * apart
    assert seen(x)["correlation"] == pytest.approx(correlation(x), abs=1e-5)


def test_samples_that_are_all_alike() -> None:
    for x in (torch.zeros(4, 3), torch.full((4, 3), 7.0)):
        assert seen(x)["variation"] == 0
        assert seen(x)["correlation"] == 0
    alike = torch.tensor([[1.0, 2.0, 4.0]]) * torch.tensor([[1.0], [3.0], [9.0]])
    assert seen(alike)["correlation"] == pytest.approx(1)


def test_only_the_first_samples_are_correlated() -> None:
    x = values([200, 5], torch.float64, 0)
    assert seen(x)["correlation"] == seen(x[:64])["correlation"]
    assert seen(x)["correlation"] != seen(x[:63])["correlation"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_do_not_overflow_or_stall_in_a_narrow_type(dtype: torch.dtype) -> None:
    x = torch.full((100_000, 1), 300.0, dtype=dtype)
    assert seen(x)["forward_rms"] == pytest.approx(300, rel=1e-5, abs=0)
    assert float(statistics.norm(x)) == pytest.approx(300 * math.sqrt(100_000), rel=1e-5, abs=0)


def test_what_is_not_finite_is_counted_and_shows() -> None:
    x = torch.tensor([[1.0, math.nan], [math.inf, -math.inf]])
    assert int(statistics.nonfinite(x)) == 3
    assert math.isnan(seen(x)["forward_rms"])
    assert math.isinf(seen(torch.tensor([[1.0, math.inf]]))["forward_rms"])
    assert math.isnan(seen(x)["correlation"])


def test_an_empty_tensor_has_no_faults() -> None:
    x = torch.zeros(0, 3)
    assert float(statistics.norm(x)) == 0
    assert int(statistics.nonfinite(x)) == 0


@settings(max_examples=50)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data())
def test_units_are_summed_whatever_the_layout(shape: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = values(shape, torch.float64, 0)
    for laid_out in (x, x.transpose(0, -1).contiguous().transpose(0, -1)):
        found = statistics.by_unit(laid_out, axis, torch.abs)
        expected = np.abs(np.moveaxis(exact(x), axis, 0)).reshape(shape[axis], -1).sum(axis=1)
        assert found.tolist() == pytest.approx(expected.tolist())


def test_large_tensors_are_gone_through_in_pieces_that_make_up_the_whole() -> None:
    x = values([3, 7, 50_000], torch.float64, 0)
    parts = list(statistics.pieces(x))
    assert len(parts) > 1
    assert max(part.numel() for part in parts) <= 1 << 16
    assert sum(part.numel() for part in parts) == x.numel()
    assert float(statistics.norm(x)) == pytest.approx(float(np.linalg.norm(exact(x))), rel=1e-12)
    assert float(statistics.moments(x.relu()).zeros) == (exact(x) <= 0).sum()


def test_scalars_leave_torch_with_all_their_digits() -> None:
    assert statistics.to_floats([]) == []
    mixed = [torch.tensor(7), torch.tensor(0.1, dtype=torch.float64), torch.tensor(True)]
    assert statistics.to_floats(mixed) == [7.0, 0.1, 1.0]


@pytest.mark.parametrize("statistic", [statistics.norm, statistics.squares, statistics.nonfinite])
def test_a_statistic_is_detached_and_changes_nothing(statistic: Any) -> None:
    x = values([4, 3], torch.float32, 0).requires_grad_()
    before = x.detach().clone()
    assert not statistic(x).requires_grad
    assert torch.equal(x, before)
