"""What is no plain module: fused encoders, graphs, script; and what is refused by name."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope
from gradscope.derivatives import derivative
from gradscope.derivatives.isigmoid import Isigmoid
from gradscope.errors import PlanError
from gradscope.patching import Reached, reach
from tests.gradscope.patching.test_reach import (
    RELU,
    SIGMOID,
    Block,
    equal,
    everything,
    gradients,
    inputs,
    net,
)

# --- Encoder layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", nn.ReLU()], ids=["function", "module"])
def test_an_encoder_keeps_its_fused_path_and_its_bits(activation: Any) -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, activation, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(3, 4, 6)
    seen: list[int] = []

    def check(reached: Reached | None) -> list[Tensor]:
        outputs = [model.train()(x).detach(), model.eval()(x).detach()]
        with torch.no_grad():
            outputs.append(model.eval()(x))
        model.requires_grad_(False)
        outputs.append(model(x))  # nothing asks for a gradient: fused as well
        model.requires_grad_(True)
        seen.append(sum(each.calls for each in reached.settings) if reached else 0)
        return outputs

    before = check(None)
    site = "layers.*::relu" if activation == "relu" else "layers.*.activation"
    reached = reach(model, [(site, RELU)])
    assert equal(check(reached), before)
    # Two layers, once in train and once in eval mode; without a gradient they are not asked.
    assert seen == [0, 4]
    reached()


def test_an_encoder_that_is_given_its_input_by_name_is_patched() -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True).eval().requires_grad_(False)
    x = torch.randn(3, 4, 6, requires_grad=True)
    reach(layer, [("::relu", RELU)])
    (found,) = torch.autograd.grad(layer(src=x).square().sum(), x)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert torch.equal(found, expected)


# --- Graphs -----------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.two(functional.relu(self.one(x))).relu())


def traced() -> nn.Module:
    return torch.fx.symbolic_trace(net(Small))


def exported() -> nn.Module:
    return torch.export.export(net(Small), (inputs(),)).module()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("made", [traced, exported])
def test_nodes_of_graphs_are_reached(made: Callable[[], nn.Module]) -> None:
    model, module = made(), net(Small)
    code, names = model.code, [name for name, _ in model.named_modules()]
    plain = model(inputs())
    before = gradients(model, plain)
    for site, derived in (("::relu@1", RELU), ("::relu", RELU), ("::sigmoid@0", SIGMOID)):
        on_graph, on_module = reach(model, [(site, derived)]), reach(module, [(site, derived)])
        assert torch.equal(model(inputs()), plain)
        found = gradients(model, model(inputs()))
        assert equal(found, gradients(module, module(inputs())))
        assert not equal(found, before)
        twin = copy.deepcopy(model)
        assert equal(gradients(twin, twin(inputs())), found)
        on_graph(), on_module()
        assert equal(gradients(model, model(inputs())), before)
    assert model.code == code
    assert [name for name, _ in model.named_modules()] == names


class Clipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(torch.clip(self.one(x), 0))
        return self.one(x.clip(min=0) + 1).clip_(0).clip(0, 5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("made", [torch.fx.symbolic_trace, torch.export.export])
def test_nodes_that_clip_at_zero_are_reached(made: Callable[..., Any]) -> None:
    module = net(Clipped)
    graph = made(module) if made is torch.fx.symbolic_trace else made(module, (inputs(),)).module()
    for model in (graph, module):
        reach(model, [("::relu@0", RELU), ("::relu@1", RELU), ("::relu@2", RELU)])
    assert torch.equal(graph(inputs()), module(inputs()))
    assert equal(gradients(graph, graph(inputs())), gradients(module, module(inputs())))
    with pytest.raises(PlanError, match="has 3 nodes that compute relu"):
        reach(graph, [("::relu@3", RELU)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("made", [traced, exported])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_patches_come_off_a_graph_in_any_order(
    made: Callable[[], nn.Module], order: tuple[int, ...]
) -> None:
    model: Any = made()
    module, graph, before = net(Small), model.graph, everything(model)
    plans = [("::relu@1", RELU), ("::sigmoid", SIGMOID), ("::relu@0", RELU)]
    on_graph = [reach(model, [plan]) for plan in plans]
    on_module = [reach(module, [plan]) for plan in plans]
    for number in order:
        found = gradients(model, model(inputs()))
        assert equal(found, gradients(module, module(inputs())))
        on_graph[number](), on_module[number]()
    assert model.graph is graph
    assert everything(model) == before


# --- Refusals ---------------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.cell = nn.LSTM(6, 6), nn.GRU(6, 6), nn.GRUCell(6, 6)
        self.act, self.linear = nn.ReLU(), nn.Linear(6, 6)
        self.own = Own()


class Own(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


REFUSED = {
    "lstm": "gates",
    "lstm::sigmoid": "not for 'sigmoid'",
    "gru::relu": "gates GRU computes in one fused call",
    "cell": "GRUCell computes in one fused call",
    "act::relu@0": "name the module, 'act', itself",
    "linear::relu": "Linear calls no activations",
    "linear": "is a Linear, not a ReLU",
    "own": "forward of its own; name what it calls: 'own::relu'",
    "nowhere::relu": "'nowhere'",
    "nowhere": "no module of the name 'nowhere'",
    "act@first": "after '@' stands a number",
    "enc*": "matches no ReLU",
    "enc*::relu": "matches no module that may call functions",
}


@pytest.mark.parametrize("site", REFUSED)
def test_what_cannot_be_reached_is_refused_by_name(site: str) -> None:
    model = Odd()
    before = everything(model)
    with pytest.raises(PlanError) as caught:
        reach(model, [("act", RELU), (site, RELU)])
    assert repr(site) in str(caught.value)
    assert REFUSED[site] in str(caught.value)
    assert everything(model) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_is_refused() -> None:
    model = nn.Sequential(torch.jit.script(net(Block)), nn.ReLU())
    for site in ("0", "0.act", "0::relu"):
        with pytest.raises(PlanError, match="TorchScript"):
            reach(model, [(site, RELU)])
    reached = reach(model, [("*", RELU)])
    assert [setting.site for setting in reached.settings] == ["1"]


def test_a_subclass_with_its_own_forward_is_reached_by_what_it_calls() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Own())
    before = gradients(model, model(inputs()))
    reach(model, [("1::relu", RELU)])
    assert not equal(gradients(model, model(inputs())), before)


def test_what_a_module_calls_is_named_only_where_it_may_call_it() -> None:
    class Shifted(Isigmoid):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    model = nn.Sequential(nn.ReLU6(), nn.ReLU(), Shifted())
    model[1].forward = lambda x: x.relu() + 1
    for site, name, said in (
        ("0", "hardtanh-logistic", "which is a ReLU6, not a Hardtanh."),
        ("1", "relu-logistic", "which is a ReLU with a forward of its own."),
        ("2", "isigmoid-min", "which is a Shifted with a forward of its own."),
    ):
        with pytest.raises(PlanError) as caught:
            reach(model, [(site, derivative(name, {}))])
        assert str(caught.value).endswith(said)


def test_overlapping_names_are_refused() -> None:
    with pytest.raises(PlanError, match="twice"):
        reach(net(), [("*", RELU), ("block.act", RELU)])


def test_a_graph_that_lacks_the_node_is_left_alone() -> None:
    model = traced()
    before = everything(model)
    with pytest.raises(PlanError, match="has 2 nodes that compute relu"):
        reach(model, [("::relu@0", RELU), ("::relu@2", RELU)])
    assert everything(model) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("site", ["0::relu", "::relu"])
def test_an_unflattened_program_is_refused(site: str) -> None:
    """Its graph is run node by node, where no call would be seen."""
    program = torch.export.export(nn.Sequential(net(Small)), (inputs(),))
    with pytest.raises(PlanError, match="was unflattened"):
        reach(torch.export.unflatten(program), [(site, RELU)])


def test_a_pattern_says_what_it_passes_by(caplog: pytest.LogCaptureFixture) -> None:
    class Doubled(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Doubled(), nn.ReLU6())
    patch = gradscope.replace_derivative(model, "relu-logistic", selective=False)
    assert list(patch.strengths) == ["1"]
    [said] = caplog.messages
    assert said.startswith("2 keeps its own derivative: Doubled has a forward of its own.")
