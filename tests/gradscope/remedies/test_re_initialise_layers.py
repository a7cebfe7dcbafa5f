"""Weights drawn anew of recurrent layers, gate by gate, and of embeddings that are the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope import registry
from gradscope.errors import PlanError
from gradscope.patch import apply
from gradscope.records import Plan
from tests.gradscope.remedies.setting import entry, inputs, profiled, proposed, refused

# --- Recurrent layers -------------------------------------------------------------------------

GATES: list[tuple[Any, int]] = [
    (nn.RNN, 1),
    (nn.LSTM, 4),
    (nn.GRU, 3),
    (nn.RNNCell, 1),
    (nn.LSTMCell, 4),
    (nn.GRUCell, 3),
]


def holding(layer: nn.Module) -> nn.Module:
    model = nn.Module()
    model.add_module("layer", layer)
    return model


def drawn(layer: nn.Module, **parameters: Any) -> dict[str, Tensor]:
    apply(holding(layer), Plan((entry("re-initialise", "layer", **parameters),), seed=3))
    return {name: value.detach() for name, value in layer.named_parameters()}


def assert_orthogonal(block: Tensor, gain: float = 1.0) -> None:
    gram = block.T @ block if block.shape[0] >= block.shape[1] else block @ block.T
    torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "gates"), GATES)
@pytest.mark.parametrize(
    ("parameters", "deviation"),
    [
        ({"scheme": "he"}, (2 / 96) ** 0.5),
        ({"scheme": "xavier"}, (2 / 160) ** 0.5),
        ({"scheme": "xavier", "gain": 4.0}, 4 * (2 / 160) ** 0.5),
    ],
)
def test_each_gate_is_drawn_by_itself(
    kind: Any, gates: int, parameters: Any, deviation: float
) -> None:
    values = drawn(kind(96, 64), **parameters)
    (into,) = (value for name, value in values.items() if name.startswith("weight_ih"))
    (hidden,) = (value for name, value in values.items() if name.startswith("weight_hh"))
    for block in into.chunk(gates):
        assert block.std().item() == pytest.approx(deviation, rel=0.05)
    for block in hidden.chunk(gates):
        assert_orthogonal(block)


def test_orthogonal_gates_and_normal_ones() -> None:
    values = drawn(nn.GRU(48, 64), scheme="orthogonal")
    for block in values["weight_ih_l0"].chunk(3):
        assert_orthogonal(block, 2**0.5)
    for block in values["weight_hh_l0"].chunk(3):
        assert_orthogonal(block)
    values = drawn(nn.GRU(48, 64), scheme="normal", sigma=0.2)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert values[name].std().item() == pytest.approx(0.2, rel=0.05)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_projections_and_both_directions_are_drawn() -> None:
    layer = nn.LSTM(16, 64, num_layers=2, bidirectional=True, proj_size=24)
    for parameter in layer.parameters():
        parameter.data.fill_(7)
    values = drawn(layer, scheme="xavier")
    assert all(value.abs().max() < 2 for value in values.values())
    projection = values["weight_hr_l1_reverse"]
    assert projection.std().item() == pytest.approx((2 / 88) ** 0.5, rel=0.1)
    for block in values["weight_hh_l1_reverse"].chunk(4):
        assert_orthogonal(block)
    outputs, _ = layer(inputs(30, 4, 16))
    assert outputs.isfinite().all()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.LSTMCell])
def test_the_forget_gate_starts_open_and_all_other_biases_at_zero(kind: Any) -> None:
    values = drawn(kind(8, 5), scheme="xavier")
    total = sum(value for name, value in values.items() if name.startswith("bias"))
    assert isinstance(total, Tensor)
    assert total.tolist() == [0] * 5 + [1] * 5 + [0] * 10
    others = drawn(nn.GRU(8, 5), scheme="xavier")
    assert not any(value.any() for name, value in others.items() if name.startswith("bias"))


def test_undoing_puts_recurrent_weights_back_in_place() -> None:
    layer = nn.LSTM(8, 5, num_layers=2)
    model, x = holding(layer), inputs(7, 3, 8)
    before, kept = layer(x)[0], [each.clone() for each in layer.parameters()]
    places = [each.data_ptr() for each in layer.parameters()]
    prescription = entry("re-initialise", "layer", scheme="xavier")
    with apply(model, Plan((prescription,))):
        assert layer(x)[0].isfinite().all()
        assert not torch.equal(layer(x)[0], before)
        assert [each.data_ptr() for each in layer.parameters()] == places
        renewed = registry.remedy("re-initialise").renewed(model, prescription)
        assert list(map(id, renewed)) == list(map(id, layer.parameters()))
    assert all(map(torch.equal, layer.parameters(), kept))
    assert torch.equal(layer(x)[0], before)


class Sequences(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.recurrent, self.head = layer, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.recurrent(x)[0][:, -1])
        return output


@pytest.mark.parametrize(
    ("layer", "scheme"),
    [
        (nn.LSTM(8, 16, batch_first=True), "xavier"),
        (nn.RNN(8, 16, batch_first=True, nonlinearity="relu"), "he"),
    ],
)
def test_recurrent_layers_are_proposed_and_left_out_of_lsuv(layer: nn.Module, scheme: str) -> None:
    model = Sequences(layer)
    found = proposed("re-initialise", "GS303", model, profiled(model, 12, 5, 8))
    assert found[0].parameters == {"scheme": scheme}
    sites = {str(each.parameters["scheme"]): each.sites for each in found}
    assert sites == {
        scheme: ("recurrent", "head"),
        "lsuv": ("head",),
        "orthogonal": ("recurrent", "head"),
    }
    with pytest.raises(PlanError, match="lsuv"):
        apply(model, Plan((entry("re-initialise", "recurrent", scheme="lsuv"),)))


def _frozen(layer: nn.LSTM) -> None:
    layer.weight_hh_l0.requires_grad_(False)


def _hooked(layer: nn.LSTM) -> None:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(layer, "weight_hh_l0")


def _parametrised(layer: nn.LSTM) -> None:
    nn.utils.parametrizations.orthogonal(layer, "weight_hh_l0")


@pytest.mark.parametrize("make", [_frozen, _hooked, _parametrised])
def test_recurrent_weights_that_are_not_its_own_stay(make: Any) -> None:
    layer = nn.LSTM(8, 16, batch_first=True)
    make(layer)
    with pytest.raises(PlanError, match="trained and their own"):
        apply(holding(layer), Plan((entry("re-initialise", "layer", scheme="he"),)))


# --- Embeddings that are the head -------------------------------------------------------------


class Tied(nn.Module):
    """A language model whose head is its embedding: a layer, or a function called with it."""

    def __init__(self, *, layer: bool, std: float = 1.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 64, padding_idx=3)
        nn.init.normal_(self.embed.weight, std=std)
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        if layer:
            self.head = nn.Linear(64, 200)
            self.head.weight = self.embed.weight
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.embed(x.abs().mul(50).long() % 200)).mean(dim=1)
        output: Tensor = self.head(x) if self.layer else x @ self.embed.weight.T
        return output


@pytest.mark.parametrize("layer", [True, False], ids=["a layer", "a function"])
def test_an_embedding_that_is_the_head_is_drawn_once_at_the_heads_scale(layer: bool) -> None:
    torch.manual_seed(0)
    model = Tied(layer=layer)
    profile = profiled(model, 12, 9)
    found = proposed("re-initialise", "GS303", model, profile)
    head = "head" if layer else "embed"
    assert found[0].parameters == {"scheme": "he"}
    assert set(found[0].sites) == {"body.0", head}
    assert [each.sites for each in found if each.parameters["scheme"] == "lsuv"] == [("body.0",)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with apply(model, Plan((found[0],))):
        weight = model.embed.weight
        assert weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
        assert not weight[3].any(), "padding stays zero"
        if layer:
            assert model.head.weight is weight
            assert not model.head.bias.any()
        renewed = registry.remedy("re-initialise").renewed(model, found[0])
        assert any(each is weight for each in renewed)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not layer or model.head.weight is model.embed.weight


def test_heads_that_are_tied_have_no_part_in_lsuv() -> None:
    with pytest.raises(PlanError, match="lsuv"):
        apply(Tied(layer=True), Plan((entry("re-initialise", "head", scheme="lsuv"),)))


def test_other_shared_weights_and_other_embeddings_stay() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.one, self.other = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.other.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.other(self.one(self.embed(x.abs().long() % 10))).mean(dim=1)
            return output

    model = Shared()
    assert "there is no" in refused("re-initialise", "GS303", model, profiled(model, 12, 5))
