"""Each number against NumPy and torch in float64, for every way through the chunks."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradscope.checkpoints.evidence.chunks import chunks
from gradscope.checkpoints.evidence.statistics import tensor_statistics

# One of each way through: short rows, rows cut into pieces, rows longer than a chunk, many chunks.
SHAPES: list[tuple[int, ...]] = [
    (300,),
    (64, 3, 7, 7),
    (700, 27),
    (3, 20000),
    (2, 1100000),
    (513, 1025),
    (2000, 1),
]

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
BYTES = [
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.int8,
]


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * 0.02 + 0.01
    return (values * (1000 if dtype == torch.int8 else 1)).to(dtype)


def reference(tensor: Tensor) -> tuple[float, float]:
    """The same in float64, without any pieces."""
    rows = tensor.double().flatten(1).numpy() + 0.0
    zero = ~rows.any(axis=1)
    counts = Counter(row.tobytes() for row in rows)
    twins = np.array([counts[row.tobytes()] > 1 for row in rows]) & ~zero
    return zero.mean(), twins.mean()


@pytest.mark.parametrize("dtype", [*FLOATS, *BYTES], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_numbers_are_those_of_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = drawn(shape, dtype)
    found, exact = tensor_statistics(tensor), tensor.double()
    assert found.elements == tensor.numel()
    rounded = dtype == torch.bfloat16 and tensor.numel() >= 1 << 20
    tolerance = 1e-4 if rounded else 1e-5
    assert found.rms == pytest.approx(float(exact.square().mean().sqrt()), rel=tolerance)
    assert (found.nonfinite, found.first_nonfinite) == (0, None)
    assert found.rows == (shape[0] if len(shape) > 1 else 0)


@pytest.mark.parametrize("dtype", [*FLOATS, *BYTES], ids=str)
@pytest.mark.parametrize("shape", [each for each in SHAPES if len(each) > 1], ids=str)
def test_rows_are_counted_exactly(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = drawn(shape, dtype)
    codes = tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
    codes[-1] = codes[0]
    codes[1] = 0
    zero, twins = reference(tensor)
    found = tensor_statistics(tensor)
    assert found.zero_rows == pytest.approx(zero)
    assert found.duplicate_rows == pytest.approx(twins)


@pytest.mark.parametrize("threads", [1, 2])
@given(
    rows=st.integers(2, 40),
    columns=st.sampled_from([1, 5, 31, 32, 33, 1023, 9000, 17000, 40000]),
    seed=st.integers(0, 9),
)
def test_a_copy_is_found_wherever_it_stands(
    threads: int, rows: int, columns: int, seed: int
) -> None:
    tensor = drawn((rows, columns), seed=seed)
    source, target = seed % rows, rows - 1 - seed % (rows // 2)
    tensor[target] = tensor[source]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = tensor_statistics(tensor, rank=False)
    finally:
        torch.set_num_threads(before)
    assert found.duplicate_rows == (0.0 if source == target else 2 / rows)


def test_rows_of_the_same_numbers_in_another_order_are_not_equal() -> None:
    assert tensor_statistics(torch.eye(300)).duplicate_rows == 0.0


def test_rows_of_the_same_length_and_beginning_are_not_equal() -> None:
    tensor = torch.ones(50, 60)
    for row, each in enumerate(tensor):
        each[1 + row] = -1.0
    assert tensor_statistics(tensor).duplicate_rows == 0.0
    tensor[7] = tensor[8]
    assert tensor_statistics(tensor).duplicate_rows == 2 / 50


def test_zero_and_minus_zero_are_equal() -> None:
    tensor = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [2.0, 3.0]])
    assert tensor_statistics(tensor).duplicate_rows == pytest.approx(2 / 3)


def test_rows_that_are_all_alike() -> None:
    found = tensor_statistics(torch.full((500, 40), 0.05))
    assert found.duplicate_rows == 1.0


def test_zeros() -> None:
    found = tensor_statistics(torch.zeros(50, 40))
    assert (found.rms, found.zero_rows, found.duplicate_rows) == (0.0, 1.0, 0.0)
    assert found.effective_rank is None


@pytest.mark.parametrize("scale", [1e-30, 1e-42, 1e30])
def test_squares_that_do_not_fit_into_float32(scale: float) -> None:
    tensor = drawn((60, 50)) * 50 * scale
    tensor[3], tensor[-1] = 0.0, tensor[5]
    found, exact = tensor_statistics(tensor), tensor.double()
    assert found.rms == pytest.approx(float(exact.square().mean().sqrt()), rel=1e-6)
    assert (found.zero_rows, found.duplicate_rows) == (1 / 60, 2 / 60)
    assert found.nonfinite == 0


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_and_infinity_are_counted_and_left_out(dtype: torch.dtype) -> None:
    tensor = drawn((100, 3, 1000), dtype)
    rest = tensor.double().clone()
    tensor[50, 1, 7], tensor[50, 2, 7], tensor[80, 0, 0] = math.nan, math.inf, -math.inf
    tensor[3] = tensor[4]
    rest[3] = rest[4]
    keep = torch.ones_like(rest, dtype=torch.bool)
    keep[50, 1, 7] = keep[50, 2, 7] = keep[80, 0, 0] = False
    found = tensor_statistics(tensor)
    assert (found.nonfinite, found.first_nonfinite) == (3, (50, 1, 7))
    assert found.rms == pytest.approx(float(rest[keep].square().mean().sqrt()), rel=1e-5)
    assert found.duplicate_rows == 2 / 100


def test_vectors_with_nan() -> None:
    tensor = drawn((1_200_000,))
    tensor[600_000] = tensor[1_150_000] = math.nan
    found = tensor_statistics(tensor)
    assert (found.nonfinite, found.first_nonfinite) == (2, (600_000,))
    assert found.rms == pytest.approx(math.hypot(0.02, 0.01), rel=1e-2)


def test_the_first_of_a_row_longer_than_a_chunk() -> None:
    tensor = drawn((3, 1_100_000))
    tensor[1, 1_060_000] = tensor[1, 9] = tensor[2, 0] = math.nan
    assert tensor_statistics(tensor, rank=False).first_nonfinite == (1, 9)


def test_nothing_finite_at_all() -> None:
    found = tensor_statistics(torch.full((4, 4), math.nan))
    assert (found.nonfinite, math.isnan(found.rms)) == (16, True)


@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        (torch.tensor(math.nan), ()),
        (torch.tensor([1.0, math.inf]), (1,)),
        (torch.tensor([[1.0, 1.0], [1.0, complex(0, math.nan)]]), (1, 1)),
    ],
)
def test_places_are_those_of_the_tensor_as_it_is_stored(
    tensor: Tensor, place: tuple[int, ...]
) -> None:
    assert tensor_statistics(tensor).first_nonfinite == place


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    found = tensor_statistics(torch.zeros(shape))
    assert (found.elements, found.nonfinite) == (0, 0)


@pytest.mark.parametrize("value", [torch.tensor(3.0), torch.tensor(True), torch.tensor(7)])
def test_single_numbers(value: Tensor) -> None:
    found = tensor_statistics(value)
    assert (found.elements, found.rms) == (1, float(value))


def test_any_layout() -> None:
    tensor = drawn((64, 8, 5, 5))
    plain = tensor_statistics(tensor)
    assert tensor_statistics(tensor.to(memory_format=torch.channels_last)) == plain
    turned = drawn((300, 70)).T
    found, plain = tensor_statistics(turned), tensor_statistics(turned.contiguous())
    assert found.rms == pytest.approx(plain.rms, rel=1e-6)
    assert found.rows == plain.rows


@pytest.mark.parametrize("rank", [1, 5, 40])
def test_effective_rank_of_equal_singular_values(rank: int) -> None:
    left, right = (torch.linalg.qr(drawn((40, 40), torch.float64, seed))[0] for seed in (1, 2))
    found = tensor_statistics(left[:, :rank] @ right[:rank]).effective_rank
    assert found == pytest.approx(rank / 40, rel=1e-3)


def test_effective_rank_of_large_matrices() -> None:
    assert tensor_statistics(drawn((2000, 3000)) - 0.01).effective_rank > 0.95
    low = drawn((2000, 3)) @ drawn((3, 3000))
    assert tensor_statistics(low).effective_rank < 3.01 / 64
    assert tensor_statistics(low, rank=False).effective_rank is None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_chunks_hold_every_element_once(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = drawn(shape, dtype)
    rows = tensor.reshape(1, -1) if len(shape) == 1 else tensor.flatten(1)
    seen = torch.zeros(rows.shape)
    for chunk in chunks(tensor, 1 << 12):
        assert chunk.values.numel() <= 1 << 12
        width = chunk.values.shape[1]
        seen[chunk.rows, chunk.column : chunk.column + width] += chunk.values
    assert torch.equal(seen, rows.float())


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8], ids=str)
@pytest.mark.parametrize("shape", [(9000,), (64, 256), (200, 300)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_nothing_is_written_to(shape: tuple[int, ...], dtype: torch.dtype, mean: float) -> None:
    tensor = (drawn(shape) + mean).to(dtype)
    for value in (None, math.nan) if dtype.is_floating_point else (None,):
        if value is not None:
            tensor[5] = value
        before = tensor.clone()
        tensor_statistics(tensor)
        assert torch.equal(tensor.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("count", [1, 5, 8192, 8193])
def test_short_vectors_are_told_like_long_ones(count: int) -> None:
    tensor = drawn((count,)) + 5.0
    exact = float(tensor.double().square().mean().sqrt())
    assert tensor_statistics(tensor).rms == pytest.approx(exact, rel=1e-6)
