"""Finding artificial derivatives by name, and what they refuse to be called with."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn

from gradscope import registry
from gradscope.derivatives import derivative, derivatives
from gradscope.errors import PlanError

KINDS = sorted(derivatives())
EVERY = pytest.mark.parametrize("name", KINDS)


@EVERY
def test_every_derivative_says_what_it_is_and_where_it_is_from(name: str) -> None:
    kind = derivatives()[name]
    assert kind.name == name
    assert kind.formula
    assert kind.source
    assert kind.__doc__
    if kind.native is None:
        assert kind.operators
    else:
        assert set(kind.arguments) <= set(vars(kind.native()))


@EVERY
def test_the_operators_are_functions_or_methods_of_torch(name: str) -> None:
    for operator in derivatives()[name].operators:
        # Where F.mish finds mish_, and torch.special.expit is called by its name.
        places = (torch, torch.Tensor, nn.functional, torch._C._nn, torch._C._special)
        assert any(hasattr(place, operator) for place in places), operator


def test_the_derivatives_of_the_paper_and_the_slides_are_named_by_them() -> None:
    assert "eq. 8" in derivatives()["relu-logistic"].source
    assert "eq. 11" in derivatives()["sigmoid-min"].source
    assert "eq. 6 and 11" in derivatives()["isigmoid-min"].source
    assert "algorithm 1" in derivatives()["sigmoid-beta"].source


def test_an_unknown_name_or_parameter_is_named_beside_those_there_are() -> None:
    with pytest.raises(PlanError) as caught:
        derivative("relu-logistik", {})
    assert str(caught.value) == (
        f"There is no artificial derivative 'relu-logistik'; there are {', '.join(derivatives())}."
    )
    with pytest.raises(PlanError, match="relu-logistic has no parameter 'slope'; it has k, sel"):
        derivative("relu-logistic", {"slope": 2})
    with pytest.raises(PlanError, match="isigmoid-min has no parameter 'k'; it has none"):
        derivative("isigmoid-min", {"k": 2})


_NUMBERS = {"k", "eps", "beta", "width", "clip", "slope"}


@EVERY
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "3.5", [1], True])
def test_a_parameter_that_cannot_be_meant(name: str, value: Any) -> None:
    for parameter in _NUMBERS & set(vars(derivatives()[name]())):
        with pytest.raises(PlanError, match=f"{name} needs a positive, finite {parameter}"):
            derivative(name, {parameter: value})


FRACTIONS = [("elu-floor", "eps"), ("sigmoid-beta", "beta"), ("relu-leaky", "slope")]


@pytest.mark.parametrize("parameter", FRACTIONS)
def test_a_floor_above_the_largest_slope_is_refused(parameter: tuple[str, str]) -> None:
    name, what = parameter
    with pytest.raises(PlanError, match=f"positive, finite {what} of at most 1, not 2"):
        derivative(name, {what: 2})


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_a_strength_is_a_share(strength: float) -> None:
    with pytest.raises(ValueError, match="relu-logistic needs a strength between 0 and 1"):
        derivative("relu-logistic", {})(torch.zeros(1), strength=strength)


def test_an_argument_that_the_operator_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes no argument 'slope' .* it takes negative_slope"):
        derivative("leaky-relu-logistic", {})(torch.zeros(1), slope=0.2)
    with pytest.raises(TypeError, match=r"takes no argument 'dim' .* it takes none"):
        derivative("relu-logistic", {})(torch.zeros(1), dim=0)


@pytest.mark.parametrize("name", ["softplus-floor", "softsign-floor", "gelu-floor", "isigmoid-min"])
def test_what_torch_cannot_do_in_place_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"The operator of {name} has no in-place form"):
        derivative(name, {})(torch.zeros(1), inplace=True)


def test_what_autocast_widens_is_differentiated_in_the_wide_type() -> None:
    """As on a GPU, where softplus of a half is a float; no operator here is widened on the CPU."""
    chosen = derivative("softplus-floor", {})
    x = torch.linspace(-3, 3, 7).bfloat16().requires_grad_()
    widening = type(chosen)
    wide = type("Wide", (widening,), {"operator": _wide})()
    y = wide(x)
    assert y.dtype == torch.float32
    (found,) = torch.autograd.grad(y.sum(), x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, torch.sigmoid(x.float()).clamp_min(0.05).bfloat16())


def _wide(self: Any, x: torch.Tensor, inplace: bool = False, **arguments: Any) -> torch.Tensor:
    return nn.functional.softplus(x.float(), **arguments)


@EVERY
@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("selective", [False, True])
def test_many_gradients_at_once_are_each_of_them(
    name: str, strength: float, selective: bool
) -> None:
    """``is_grads_batched``, as a vectorised Jacobian has it, runs one backward for many of them."""
    known = {entry.name for entry in fields(derivatives()[name])}  # type: ignore[arg-type]
    if selective and "selective" not in known:
        return
    chosen = derivative(name, {"selective": True} if selective else {})
    x = torch.linspace(-3.1, 4, 12).reshape(4, 3)
    x[:, 0] = -9  # an idle unit
    y = chosen(x.requires_grad_(), strength=strength)
    each = torch.eye(12).reshape(12, 4, 3)
    (found,) = torch.autograd.grad(y, x, each, is_grads_batched=True, retain_graph=True)
    expected = [torch.autograd.grad(y, x, one, retain_graph=True)[0] for one in each]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_page_of_the_remedy_lists_every_derivative() -> None:
    page = registry.remedy("artificial-derivative").__doc__ or ""
    for name, kind in derivatives().items():
        [row] = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        assert row.count("|") == 5
        assert kind.formula in row
        assert kind.source in row
