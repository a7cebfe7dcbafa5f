"""What every artificial derivative must be: the native operator forward, and nothing of the model's
own changed by wearing it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.derivatives import Derivative, derivative, derivatives
from gradscope.errors import PlanError
from gradscope.records import Change, Plan, Prescription

KINDS = sorted(derivatives())
EVERY = pytest.mark.parametrize("name", KINDS)
TYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 6e-8, 5e-324, 3e38, -88.5, 17.0]
SHAPES = st.lists(st.integers(0, 4), max_size=5)
LAYOUTS = st.sampled_from(["contiguous", "reversed", "strided", "expanded", "channels_last"])


def laid_out(shape: list[int], dtype: torch.dtype, layout: str, seed: int) -> Tensor:
    """Random values among special ones, in a memory layout that the shape allows."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 5
    special = torch.tensor(SPECIAL, dtype=torch.float64)
    chosen = torch.randint(3 * len(special), shape, generator=generator)
    x = torch.where(chosen < len(special), special[chosen % len(special)], x).to(dtype)
    if layout == "channels_last" and x.ndim == 4:
        return x.to(memory_format=torch.channels_last)
    if layout == "reversed":
        order = tuple(reversed(range(x.ndim)))
        return x.permute(order).contiguous().permute(order)
    if layout == "strided" and x.ndim:
        return torch.stack([x, x], dim=-1)[..., 0]
    if layout == "expanded" and x.ndim and x.shape[0]:
        return x[:1].expand(3, *x.shape[1:])
    return x


def assert_same(one: Tensor, other: Tensor) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.stride() == other.stride()
    width = {8: torch.int64, 4: torch.int32, 2: torch.int16}[one.element_size()]
    assert torch.equal(one.detach().view(width), other.detach().view(width))


def native(chosen: Derivative, **settings: Any) -> nn.Module:
    return chosen.native(**settings)


# --- Forward ----------------------------------------------------------------------------------


@EVERY
@given(SHAPES, TYPES, LAYOUTS, st.booleans(), st.integers(0, 1000))
@example([0, 3], torch.float32, "contiguous", True, 0)
@example([], torch.float32, "contiguous", True, 0)
@example([2, 3, 4, 4], torch.bfloat16, "channels_last", True, 0)
def test_the_forward_is_the_native_operator_bit_for_bit(
    name: str, shape: list[int], dtype: torch.dtype, layout: str, gradient: bool, seed: int
) -> None:
    chosen = derivative(name, {})
    x = laid_out(shape, dtype, layout, seed)
    before = x.clone()
    y = chosen(x.detach().requires_grad_(gradient))
    assert_same(y, native(chosen)(x))
    assert y.requires_grad == gradient
    assert_same(x.clone(), before)
    with torch.no_grad():
        assert not chosen(x.requires_grad_()).requires_grad


@EVERY
def test_the_forward_of_an_empty_tensor_has_a_gradient_of_its_shape(name: str) -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    derivative(name, {})(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (0, 3)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_gradient_has_the_inputs_type_and_layout(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    derivative(name, {})(x).float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@EVERY
def test_a_gradient_that_is_not_contiguous_is_right(name: str) -> None:
    chosen = derivative(name, {})
    x = torch.randn(6, 5, requires_grad=True)
    upstream = torch.randn(5, 6).T
    (gradient,) = torch.autograd.grad(chosen(x), x, upstream)
    (dense,) = torch.autograd.grad(chosen(x), x, upstream.contiguous())
    assert torch.equal(gradient, dense)


# --- Composition ------------------------------------------------------------------------------


@EVERY
def test_backward_twice_differentiates_the_backward(name: str) -> None:
    """The second derivative is that of the first, as finite differences see it."""
    chosen = derivative(name, {})

    def first(x: Tensor, upstream: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.requires_grad_()
            (gradient,) = torch.autograd.grad(chosen(leaf), leaf, upstream, create_graph=True)
        return gradient

    x = torch.tensor([-4.0, -1.0, -0.1, 0.2, 1.0, 3.0], dtype=torch.float64)
    upstream = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    step = 1e-6
    numeric = (first(x + step, upstream) - first(x - step, upstream)) / (2 * step)
    leaf = x.clone().requires_grad_()
    (second,) = torch.autograd.grad(first(leaf, upstream).sum(), leaf)
    assert second.tolist() == pytest.approx(numeric.tolist(), rel=1e-6)


@EVERY
@pytest.mark.parametrize("outside", [True, False], ids=["gradient outside", "gradient inside"])
def test_vmap(name: str, outside: bool) -> None:
    chosen = derivative(name, {})
    x = torch.linspace(-3, 3, 12).reshape(4, 3).requires_grad_()
    (expected,) = torch.autograd.grad(chosen(x).sum(), x)
    if outside:
        (found,) = torch.autograd.grad(torch.vmap(chosen)(x).sum(), x)
    else:
        found = torch.vmap(torch.func.grad(lambda row: chosen(row).sum()))(x.detach())
    assert torch.equal(found, expected)


@EVERY
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_never_falls_back_to_the_true_derivative_unseen(name: str) -> None:
    chosen = derivative(name, {})
    x = torch.linspace(-3, 3, 8)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(chosen(leaf).sum(), leaf)
    try:
        _, tangent = torch.func.jvp(chosen, (x,), (torch.ones_like(x),))
    except NotImplementedError:
        return
    assert tangent.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@EVERY
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(name: str, reentrant: bool) -> None:
    chosen = derivative(name, {})
    x = torch.linspace(-3, 3, 8, requires_grad=True)
    (expected,) = torch.autograd.grad((2 * chosen(3 * x)).sum(), x)
    y = checkpoint(lambda x: 2 * chosen(3 * x), x, use_reentrant=reentrant)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, expected)


@EVERY
def test_autocast(name: str) -> None:
    chosen = derivative(name, {})
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3), torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = chosen(layer(x))
        assert_same(y, native(chosen)(layer(x)))
    y.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@EVERY
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiling_leaves_no_graph_break(name: str, inplace: bool) -> None:
    kind = derivatives()[name]
    if inplace and kind.native is not nn.ReLU:
        inplace = False
    torch.manual_seed(0)
    model = patched_model(name, inplace=inplace)[0]
    x = torch.randn(5, 4)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(x).square().sum(), parameters)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x).square().sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


# --- Worn by a model --------------------------------------------------------------------------


def patched_model(name: str, inplace: bool = False) -> tuple[nn.Sequential, gradscope.Patch]:
    kind = derivatives()[name]
    settings = {"inplace": inplace} if kind.native is nn.ReLU else {}
    model = nn.Sequential(
        nn.Linear(4, 6), kind.native(**settings), nn.Linear(6, 6), kind.native(**settings)
    )
    parameters = {"derivative": name, **dataclasses.asdict(kind())}  # type: ignore[call-overload]
    entry = Prescription(
        "artificial-derivative", (Change.BACKWARD,), ("1", "3"), parameters, "GS201", "a test"
    )
    return model, gradscope.apply(model, Plan((entry,)))


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


@EVERY
@pytest.mark.parametrize("inplace", [False, True])
def test_a_patched_model_pickles_copies_and_keeps_its_keys(name: str, inplace: bool) -> None:
    torch.manual_seed(0)
    model, patch = patched_model(name, inplace)
    keys, x = list(model.state_dict()), torch.randn(5, 4)
    expected, output = gradients(model, x), model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(other.state_dict()) == keys
        assert [type(module) for module in other] == [type(module) for module in model]
        assert torch.equal(other(x), output)
        assert all(map(torch.equal, gradients(other, x), expected))
    patch.undo()
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model] == [nn.Linear, derivatives()[name].native] * 2
    assert all("derivative" not in vars(module) for module in model)
    assert torch.equal(model(x), output)
    assert not all(map(torch.equal, gradients(model, x), expected))


@EVERY
def test_a_patched_model_says_what_it_wears(name: str) -> None:
    model, _ = patched_model(name)
    assert repr(derivatives()[name]()) in repr(model)
    assert isinstance(model[1], derivatives()[name].native)


# --- By name ----------------------------------------------------------------------------------


def test_names_are_unique_and_every_derivative_says_where_it_is_from() -> None:
    assert KINDS == ["relu-logistic", "sigmoid-min"]
    for name, kind in derivatives().items():
        assert kind.name == name
        assert kind.formula
        assert "eq." in kind.source
        assert issubclass(kind.module, kind.native)


def test_an_unknown_name_or_parameter_is_named_beside_those_there_are() -> None:
    with pytest.raises(PlanError) as caught:
        derivative("relu-logistik", {})
    assert str(caught.value) == (
        "There is no artificial derivative 'relu-logistik'; there are relu-logistic, sigmoid-min."
    )
    with pytest.raises(PlanError, match="relu-logistic has no parameter 'slope'; it has k"):
        derivative("relu-logistic", {"slope": 2})
    with pytest.raises(PlanError, match="sigmoid-min has no parameter 'k'; it has none"):
        derivative("sigmoid-min", {"k": 2})


@pytest.mark.parametrize("k", [0, -1.0, math.nan, math.inf, "3.5", None, [1]])
def test_a_steepness_that_cannot_be_meant(k: Any) -> None:
    with pytest.raises(PlanError, match="relu-logistic needs a positive, finite k"):
        derivative("relu-logistic", {"k": k})
