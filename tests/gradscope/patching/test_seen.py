"""What others see of a patched module, and hold of it, is what it was without the patch."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.lazy import LazyModuleMixin

from gradscope.derivatives import derivative
from gradscope.errors import PlanError
from gradscope.patching import reach
from tests.gradscope.patching.test_reach import RELU, equal, gradients, inputs, net


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return functional.relu(self.linear(x)) * scale


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
@pytest.mark.parametrize("strict", [True, False])
def test_the_forward_keeps_its_signature(strict: bool) -> None:
    model = net(Scaled)
    before = inspect.signature(model.forward)
    reach(model, [("::relu", RELU)])
    assert inspect.signature(model.forward) == before
    shapes = {"x": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(model, (inputs(),), dynamic_shapes=shapes, strict=strict)
    assert "x" in exported.graph_signature.user_inputs
    assert exported.module()(inputs()[:3]).shape == (3, 6)
    assert torch.equal(torch.fx.symbolic_trace(model)(inputs()), model(inputs()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_works_in_place_is_exported_in_place() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True))
    reach(model, [("1", RELU)])
    graph = torch.export.export(model, (inputs(),)).graph
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    assert called == [torch.ops.aten.linear.default, torch.ops.aten.relu_.default]


class Registered(nn.Module):
    """Knows its subclasses by name, and wants something of each."""

    known: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, tag: str) -> None:
        cls.known[tag + cls.__name__] = cls


class One(Registered, tag="my "):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


def test_a_class_that_registers_its_subclasses_gets_none_from_a_patch() -> None:
    model = One()
    reached = reach(model, [("::relu", RELU)])
    assert Registered.known == {"my One": One}
    assert sum(setting.calls for setting in reached.settings) == 0
    model(inputs().requires_grad_())
    assert sum(setting.calls for setting in reached.settings) == 1


@pytest.mark.parametrize(("model", "site"), [(nn.ReLU(), ""), (net(Scaled), "::relu")])
def test_a_forward_that_was_looked_up_before_the_undo_is_the_modules(model: Any, site: str) -> None:
    reached = reach(model, [(site, RELU)])
    forward = model.forward
    reached()
    x = inputs().requires_grad_()
    (found,) = torch.autograd.grad(forward(x).sum(), x)
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    assert torch.equal(found, expected)


class Lazy(LazyModuleMixin, Scaled):
    cls_to_become = Scaled  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(6)
        self.weight = nn.UninitializedParameter()

    def initialize_parameters(self, x: Tensor) -> None:
        self.weight.materialize((1,))


def test_a_lazy_module_may_be_called_first_where_it_is_patched_around() -> None:
    model = net(Scaled)
    model.linear = nn.LazyLinear(6)
    reached = reach(model, [("::relu", RELU)])
    model(inputs())
    found = gradients(model, model(inputs()))
    assert type(model.linear) is nn.Linear
    reached()
    assert type(model.linear) is nn.Linear
    assert not equal(gradients(model, model(inputs())), found)


@pytest.mark.parametrize("site", ["0::relu", "*::relu"])
def test_a_lazy_module_with_calls_of_its_own_is_refused_before_its_first_one(site: str) -> None:
    model = nn.Sequential(Lazy())
    with pytest.raises(PlanError, match="'0' is lazy and takes another class"):
        reach(model, [(site, RELU)])
    model(inputs())
    before = gradients(model[0].linear, model(inputs()))
    reach(model, [(site, RELU)])
    assert not equal(gradients(model[0].linear, model(inputs())), before)


def test_complex_numbers_are_left_to_torch() -> None:
    """As those that a call is given are."""
    x = torch.randn(4, 3, dtype=torch.complex64, requires_grad=True)
    model = nn.Tanh()
    (expected,) = torch.autograd.grad(model(x).abs().sum(), x)
    reach(model, [("", derivative("tanh-min", {}))])
    (found,) = torch.autograd.grad(model(x).abs().sum(), x)
    assert torch.equal(found, expected)
