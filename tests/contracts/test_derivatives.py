"""What every artificial derivative must be: the native operator forward, the formula that is meant
backward, and nothing that gets in the way of what torch does with an operator.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradscope.derivatives import derivatives
from tests.gradscope.derivatives.calling import (
    ONE_OF_EACH,
    assert_same,
    called,
    gradient,
    laid_out,
    made,
    native_gradient,
)
from tests.gradscope.derivatives.cases import CASES, Case

EVERY = pytest.mark.parametrize("case", CASES, ids=str)
EACH = pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
IN_PLACE = pytest.mark.parametrize(
    "case",
    [
        case
        for case in ONE_OF_EACH
        if any(name.endswith("_") for name in derivatives()[case.name].operators)
    ],
    ids=str,
)
TYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
SHAPES = st.lists(st.integers(0, 4), max_size=5)
LAYOUTS = st.sampled_from(["contiguous", "reversed", "strided", "expanded", "channels_last"])


def test_every_derivative_has_a_case() -> None:
    assert {case.name for case in CASES} == set(derivatives())


# --- Forward ----------------------------------------------------------------------------------


@EVERY
@settings(max_examples=30)
@given(SHAPES, TYPES, LAYOUTS, st.booleans(), st.integers(0, 1000))
@example([0, 3], torch.float32, "contiguous", True, 0)
@example([], torch.float32, "contiguous", True, 0)
@example([2, 3, 4, 4], torch.bfloat16, "channels_last", True, 0)
def test_the_forward_is_the_native_operator_bit_for_bit(
    case: Case, shape: list[int], dtype: torch.dtype, layout: str, needed: bool, seed: int
) -> None:
    x = laid_out(shape, dtype, layout, seed)
    before = x.clone()
    expected = case.native(x, False)
    y = called(case, x.detach().requires_grad_(needed))
    assert_same(y, expected)
    assert y.requires_grad == needed
    assert_same(x.clone(), before)
    with torch.no_grad():
        assert not called(case, x.requires_grad_()).requires_grad


@IN_PLACE
@settings(max_examples=30)
@given(SHAPES, TYPES, st.sampled_from(["contiguous", "strided", "channels_last"]), st.booleans())
def test_in_place_the_forward_overwrites_its_input_as_torch_does(
    case: Case, shape: list[int], dtype: torch.dtype, layout: str, needed: bool
) -> None:
    x = laid_out(shape, dtype, layout, 1)
    leaf = x.detach().requires_grad_(needed)
    mine, theirs = leaf * 1, x * 1
    y = called(case, mine, inplace=True)
    assert y is mine
    assert_same(y, case.native(theirs, True))
    assert y.requires_grad == needed
    if needed and x.isfinite().all():
        upstream = torch.ones_like(y)
        (found,) = torch.autograd.grad(y, leaf, upstream)
        assert torch.equal(found, gradient(case, x, upstream))


@IN_PLACE
def test_in_place_on_a_leaf_is_refused_as_by_torch(case: Case) -> None:
    leaf = torch.zeros(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        called(case, leaf, inplace=True)
    assert leaf.tolist() == [0.0, 0.0, 0.0]


@IN_PLACE
def test_in_place_over_what_a_backward_needs_is_an_error_as_with_torch(case: Case) -> None:
    leaf = torch.linspace(-2, 2, 4, requires_grad=True)
    squared = (x := leaf * 1).square()
    called(case, x, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()


# --- Backward ---------------------------------------------------------------------------------

VALUES = st.lists(
    st.floats(-60, 60, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 0.5, -3.0, 6.0]),
    min_size=1,
    max_size=12,
)


@EVERY
@settings(max_examples=30)
@given(VALUES)
def test_the_derivative_is_the_formula(case: Case, values: list[float]) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.tensor(values, dtype=torch.float64).to(dtype)
        upstream = torch.linspace(-2, 2, len(values), dtype=torch.float64).to(dtype)
        found = gradient(case, x, upstream).tolist()
        for z, g, one in zip(x.tolist(), upstream.tolist(), found, strict=True):
            if any(abs(z - kink) < 0.02 for kink in case.kinks if kink):
                continue
            # exp(kz) loses as many digits as kz has before its point.
            eps = torch.finfo(dtype).eps * (8 + 8 * abs(z))
            expected = g * case.slope(z)
            # So does the distance to a jump, by as many as z has: nothing small is left of it.
            tiny = 40 * eps if "round" in case.name else eps * 1e-3
            assert one == pytest.approx(expected, rel=eps, abs=max(tiny, 1e-37)), z


@EVERY
@settings(max_examples=30)
@given(VALUES)
def test_it_is_bounded_and_never_against_the_true_derivative(
    case: Case, values: list[float]
) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.tensor(values, dtype=torch.float64).to(dtype)
        found = gradient(case, x)
        assert float(found.abs().max()) <= case.bound * (1 + 4 * torch.finfo(dtype).eps)
        assert bool((found * native_gradient(case, x, torch.ones_like(x)) >= 0).all())
        for z, one in zip(x.tolist(), found.tolist(), strict=True):
            assert one * case.true(z) >= 0 or any(abs(z - kink) < 1e-3 for kink in case.kinks)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_where_the_input_is_not_finite(case: Case, dtype: torch.dtype) -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 1.0], dtype=dtype)
    found = gradient(case, x)
    native = native_gradient(case, x, torch.ones_like(x))
    assert bool(found[2].isnan()) != case.passes_nan
    assert bool(found[3].isfinite())
    for one, other in zip(found[:2], native[:2], strict=True):
        # torch's own derivative of GELU, SiLU and Mish is no number at minus infinity.
        assert other.isnan() or abs(float(one)) <= case.bound * (1 + torch.finfo(dtype).eps)


@EVERY
@settings(max_examples=30)
@given(SHAPES, TYPES, LAYOUTS, st.integers(0, 1000))
def test_the_gradient_has_the_inputs_shape_type_and_values_in_any_layout(
    case: Case, shape: list[int], dtype: torch.dtype, layout: str, seed: int
) -> None:
    x = laid_out(shape, dtype, layout, seed).nan_to_num(1, 2, 3)
    upstream = (
        laid_out(list(x.shape), dtype, layout, seed + 1).nan_to_num(1, 2, 3)[: len(x)]
        if (x.ndim)
        else torch.ones_like(x)
    )
    upstream = upstream.expand_as(x) if upstream.shape != x.shape else upstream
    found = gradient(case, x, upstream)
    assert found.dtype == dtype
    assert found.shape == x.shape
    dense = gradient(case, x.contiguous(), upstream.contiguous())
    torch.testing.assert_close(found, dense, equal_nan=True)


@EACH
def test_channels_last_stays_so(case: Case) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    upstream = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert gradient(case, x, upstream).is_contiguous(memory_format=torch.channels_last)


@EVERY
def test_a_strength_blends_the_true_derivative_in(case: Case) -> None:
    x = torch.linspace(-4.05, 7.03, 40, dtype=torch.float64)
    upstream = torch.linspace(-1, 2, 40, dtype=torch.float64)
    true, artificial = native_gradient(case, x, upstream), gradient(case, x, upstream)
    for strength in (0.25, 0.9):
        expected = (1 - strength) * true + strength * artificial
        torch.testing.assert_close(gradient(case, x, upstream, strength=strength), expected)
        tensor = torch.tensor(strength)
        found = gradient(case, x, upstream, strength=tensor)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    leaf = x.clone().requires_grad_()
    y = called(case, leaf, strength=0.0)
    native = case.native(leaf, False)
    assert type(y.grad_fn) is type(native.grad_fn)


# --- Composition ------------------------------------------------------------------------------


def smooth_points(case: Case) -> Tensor:
    points = torch.tensor([-4.037, -1.313, -0.617, 0.233, 1.071, 2.837, 6.713], dtype=torch.float64)
    far = [all(abs(float(z) - kink) > 0.02 for kink in case.kinks) for z in points]
    return points[torch.tensor(far)]


@EVERY
@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("inplace", [False, True])
def test_backward_twice_differentiates_the_backward(
    case: Case, strength: float, inplace: bool
) -> None:
    """The second derivative is that of the first, as finite differences see it."""
    if inplace and not any(name.endswith("_") for name in made(case).operators):
        return
    x, delta = smooth_points(case), 1e-6
    upstream = torch.linspace(0.5, 2, len(x), dtype=torch.float64, requires_grad=True)

    def first(leaf: Tensor) -> Tensor:
        y = called(case, leaf * 1, inplace=inplace, strength=strength)
        return torch.autograd.grad(y, leaf, upstream, create_graph=True)[0]

    quick = gradient(case, x, upstream.detach(), strength=strength)
    above, below = (first((x + d).requires_grad_()).detach() for d in (delta, -delta))
    leaf = x.clone().requires_grad_()
    found = first(leaf)
    torch.testing.assert_close(found.detach(), quick)
    second = torch.autograd.grad(found.sum(), (leaf, upstream), materialize_grads=True)
    torch.testing.assert_close(second[0], (above - below) / (2 * delta), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(second[1] * upstream.detach(), quick)


@EACH
@pytest.mark.parametrize("selective", [False, True])
@pytest.mark.parametrize("outside", [True, False], ids=["gradient outside", "gradient inside"])
def test_vmap(case: Case, selective: bool, outside: bool) -> None:
    parameters: dict[str, Any] = {}
    if selective:
        if "selective" not in vars(made(case)):
            return
        parameters = {"selective": True}
    # Under vmap the batch is each row alone, in which every element is a unit.
    x = torch.linspace(-3.1, 9, 12).reshape(4, 3).requires_grad_()
    rows = [gradient(case, row, **parameters) for row in x]
    if outside:
        y = torch.vmap(lambda row: called(case, row, **parameters))(x)
        (found,) = torch.autograd.grad(y.sum(), x)
    else:
        found = torch.vmap(torch.func.grad(lambda row: called(case, row, **parameters).sum()))(
            x.detach()
        )
    torch.testing.assert_close(found, torch.stack(rows))


@EACH
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_never_falls_back_to_the_true_derivative_unseen(case: Case) -> None:
    x = torch.linspace(-3, 3, 8)
    try:
        _, tangent = torch.func.jvp(lambda x: called(case, x), (x,), (torch.ones_like(x),))
    except (NotImplementedError, RuntimeError):
        return
    torch.testing.assert_close(tangent, gradient(case, x))


@EACH
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(case: Case, reentrant: bool) -> None:
    x = torch.linspace(-3, 3, 8, requires_grad=True)
    (expected,) = torch.autograd.grad((2 * called(case, 3 * x)).sum(), x)
    y = checkpoint(lambda x: 2 * called(case, 3 * x), x, use_reentrant=reentrant)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, expected)


@EACH
def test_autocast(case: Case) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3), torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = called(case, layer(x))
        assert_same(y, case.native(layer(x), False))
    y.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
