"""Skip connections: what is computed, that a shut gate changes nothing, and where none is put."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from gradscope.errors import PlanError
from gradscope.patch import apply
from gradscope.records import Plan
from gradscope.rules.subjects import perceptron
from tests.gradscope.remedies.setting import entry, inputs, profiled, proposed, refused


def images() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 4),
    )


class Branching(nn.Module):
    """Its forward depends on values, so it cannot be traced; the container inside can be edited."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y if x.sum() > 1e6 else y + 1


def test_the_output_is_that_of_the_block_plus_its_input() -> None:
    model = perceptron(nn.Sigmoid, layers=2, width=32, features=32)
    x = inputs(6, 32)
    one = torch.sigmoid(model[0](x)) + x
    expected = model[4](torch.sigmoid(model[2](one)) + one)
    with apply(model, Plan((entry("skip-connection", "0", "2", gate="one"),))):
        assert torch.equal(model(x), expected)
        assert list(model.state_dict()) == [
            f"{at}.{what}" for at in "024" for what in ("weight", "bias")
        ]


def test_a_shut_gate_leaves_outputs_bit_equal_and_can_be_opened() -> None:
    model = images()
    x = inputs(5, 3, 8, 8)
    before = model(x)
    with apply(model, Plan((entry("skip-connection", "2", gate="zero"),))):
        assert torch.equal(model(x), before)
        model(x).square().sum().backward()
        gate = model.get_parameter("2.gate")
        assert gate.grad is not None
        assert gate.grad != 0
        with torch.no_grad():
            gate.fill_(1)
        assert not torch.allclose(model(x), before)
    assert torch.equal(model(x), before)
    assert "2.gate" not in model.state_dict()


def test_the_gradient_gets_around() -> None:
    torch.manual_seed(0)
    model = perceptron(nn.Sigmoid, layers=10)
    first = model[0].weight
    assert isinstance(first, Tensor)

    def gradient() -> float:
        loss = nn.functional.cross_entropy(model(inputs(16, 32)), torch.arange(16) % 10)
        return float(torch.autograd.grad(loss, first)[0].norm())

    before = gradient()
    (found,) = proposed("skip-connection", "GS101", model, profiled(model, 16, 32))
    assert found.sites == tuple(str(index) for index in range(2, 20, 2))
    assert found.parameters == {"gate": "one"}
    with apply(model, Plan((found,))):
        assert gradient() > 1e3 * before


def test_only_blocks_that_keep_shapes_are_proposed() -> None:
    model = images()
    (found,) = proposed("skip-connection", "GS101", model, profiled(model, 5, 3, 8, 8))
    assert found.sites == ("2",)
    narrowing = nn.Sequential(nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 4))
    reason = refused("skip-connection", "GS101", narrowing, profiled(narrowing, 5, 8))
    assert "x = x + activation(layer(x))" in reason


def test_a_model_that_cannot_be_traced_is_edited_inside_its_containers() -> None:
    model = Branching()
    x = inputs(4, 8)
    (found,) = proposed("skip-connection", "GS101", model, profiled(model, 4, 8))
    assert found.sites == ("layers.0",)
    expected = model.layers[2](torch.sigmoid(model.layers[0](x)) + x) + 1
    with apply(model, Plan((found,))):
        assert torch.equal(model(x), expected)


def test_a_layer_whose_output_is_used_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.act = nn.Linear(8, 8), nn.Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return self.act(y) * y  # type: ignore[no-any-return]

    with pytest.raises(PlanError, match="nothing else does"):
        apply(Twice(), Plan((entry("skip-connection", "layer", gate="one"),)))


def test_an_exported_graph_is_edited_too() -> None:
    model = torch.fx.symbolic_trace(perceptron(nn.Sigmoid, layers=2, width=8, features=8))
    x = inputs(4, 8)
    before = model(x)
    with apply(model, Plan((entry("skip-connection", "0", "2", gate="one"),))):
        assert not torch.allclose(model(x), before)
    assert torch.equal(model(x), before)


def test_layers_of_other_classes_are_left_alone() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)[:, :2]

    model = nn.Sequential(Own(8, 8), nn.Sigmoid(), nn.Linear(2, 2))
    with pytest.raises(PlanError, match="as many outputs as inputs"):
        apply(model, Plan((entry("skip-connection", "0", gate="one"),)))
    twice = Plan((entry("skip-connection", "0"), entry("skip-connection", "0")))
    plain = perceptron(nn.Sigmoid, layers=1, width=8, features=8)
    with pytest.raises(PlanError, match="Prescription 2"):
        apply(plain, twice)
    assert type(plain[0]) is nn.Linear


def test_copies_and_pickles_of_a_patched_model_work() -> None:
    model = perceptron(nn.Sigmoid, layers=2, width=8, features=8)
    x = inputs(4, 8)
    with apply(model, Plan((entry("skip-connection", "0", gate="zero"),))):
        expected = model(x)
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(again(x), expected)
            assert type(again[0]) is type(model[0])


def test_an_activation_with_parameters_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.PReLU(), nn.Linear(6, 3))
    assert "write" in refused("skip-connection", "GS101", model, profiled(model, 20, 6))
    with pytest.raises(PlanError, match="would change their names"):
        apply(model, Plan((entry("skip-connection", "0"),)))
