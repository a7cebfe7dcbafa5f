"""What is known of torch's activation modules, against their derivatives by autograd."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from gradscope.derivatives import derivatives
from gradscope.patching import reach
from gradscope.profile import profile_steps
from gradscope.profile.operators import called, has_dead_zone, is_activation, saturation
from gradscope.records import Role

BOUNDED = [
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softsign(),
    nn.Hardsigmoid(),
    nn.Hardtanh(),
    nn.Hardtanh(-0.3, 2.5),
    nn.Hardtanh(inplace=True),
]


@pytest.mark.parametrize("module", BOUNDED, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_saturated_is_where_the_derivative_is_below_a_hundredth_of_its_largest(
    module: nn.Module, dtype: torch.dtype
) -> None:
    z = torch.linspace(-30, 30, 6001).to(dtype)
    x = z.double().requires_grad_()
    (slope,) = torch.autograd.grad(module(x * 1).sum(), x)
    assert torch.equal(x.detach(), z.double())
    # Where the slope is within rounding of the limit either answer is right.
    relative = slope / slope.max()
    clear = (relative - 0.01).abs() > 1e-6
    mask = saturation(module)
    assert mask is not None
    assert torch.equal(mask(z)[clear], (relative < 0.01)[clear])
    assert mask(z).any()
    assert not mask(z).all()


def test_relu6_is_saturated_above_and_dead_below() -> None:
    z = torch.tensor([-5.0, 0.0, 1.0, 5.9, 6.1, 100.0])
    mask = saturation(nn.ReLU6())
    assert mask is not None
    assert mask(z).tolist() == [False, False, False, False, True, True]
    assert has_dead_zone(nn.ReLU6)
    assert not has_dead_zone(nn.Hardtanh)


@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Linear(2, 2)]
)
def test_what_has_no_bounds_is_never_saturated(module: nn.Module) -> None:
    assert saturation(module) is None


def test_every_activation_module_of_torch_is_known() -> None:
    """A new one in torch must be looked at once: add it there, or here to what is none."""
    not_elementwise = {"MultiheadAttention", "AdaptiveLogSoftmaxWithLoss"}
    modules = [
        kind
        for name, kind in vars(nn.modules.activation).items()
        if inspect.isclass(kind)
        and issubclass(kind, nn.Module)
        and kind.__module__.endswith("modules.activation")
    ]
    unknown = {
        kind.__name__
        for kind in modules
        if not is_activation(kind.__new__(kind)) and kind.__name__ not in not_elementwise
    }
    assert len(modules) > 25
    assert not unknown


@pytest.mark.parametrize(
    "module", [nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2), nn.Identity()]
)
def test_layers_are_no_activations(module: nn.Module) -> None:
    assert not is_activation(module)


def test_an_activation_with_an_artificial_derivative_is_still_seen_as_what_it_is() -> None:
    for kind in derivatives().values():
        if kind.native is None:
            continue
        patched, native = kind.native(), kind.native()
        reach(patched, [("", kind())])
        assert is_activation(patched)
        assert has_dead_zone(type(patched)) == has_dead_zone(type(native))
        assert (saturation(patched) is None) == (saturation(native) is None)


CLAMPS: list[tuple[str, tuple[Any, ...], dict[str, Any], bool]] = [
    (name, arguments, named, is_relu)
    for name in ("clamp", "clamp_", "clip", "clip_")
    for arguments, named, is_relu in (
        ((0,), {}, True),
        ((0.0, None), {}, True),
        ((), {"min": 0}, True),
        ((), {"min": 0, "max": None}, True),
        ((0, 6), {}, False),
        ((0,), {"max": 6}, False),
        ((), {"max": 0}, False),
        ((0.1,), {}, False),
        ((False,), {}, False),
        ((torch.zeros(3),), {}, False),
    )
]
CLAMPS += [("clamp_min", (0,), {}, True), ("clamp_min_", (), {"min": 1}, False)]


@pytest.mark.parametrize(("name", "arguments", "named", "is_relu"), CLAMPS)
def test_a_clamp_at_zero_from_below_alone_is_a_relu(
    name: str, arguments: tuple[Any, ...], named: dict[str, Any], is_relu: bool
) -> None:
    x = torch.linspace(-1, 1, 3)
    call = called(name, (x, *arguments), named, lambda _: False)
    if not is_relu:
        assert call is None
        return
    assert call is not None
    assert (call.operator, call.role, call.dead_zone) == ("relu", Role.ACTIVATION, True)
    assert call.z is x


def test_a_profile_sees_clipping_as_it_sees_a_relu() -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.clip(self.one(x), min=0)
            return self.one(self.one(x - 9.0).clip_(0)).clip(0, 1)

    torch.manual_seed(0)
    seen = profile_steps(Clipped(), [torch.randn(8, 4)], lambda m, x: m(x).square().mean(), steps=1)
    assert [site.name for site in seen.activations] == ["::relu@0", "::relu@1"]
    assert all(site.dead is not None for site in seen.activations)
