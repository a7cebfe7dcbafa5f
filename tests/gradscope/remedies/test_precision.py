"""Number formats: float32 where float16 overflows, bfloat16 all over."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.errors import PlanError
from gradscope.patch import apply
from gradscope.records import Plan
from gradscope.rules.subjects import perceptron
from tests.gradscope.remedies.setting import entry, inputs, profiled, proposed, refused


class Squares(nn.Module):
    """The mean square of large numbers: the sum leaves float16, the result does not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((8,), 100.0))

    def forward(self, x: Tensor) -> Tensor:
        return ((self.scale * x).square().mean(-1, keepdim=True) / 100).expand(-1, 8)


def overflowing() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), Squares(), nn.Linear(8, 3)).half()


def test_an_island_in_float32_does_not_overflow_and_gradients_reach_its_weights() -> None:
    model, x = overflowing(), 20 * inputs(6, 4).half()
    assert not model(x).isfinite().all()
    keys = list(model.state_dict())
    with apply(model, Plan((entry("precision", "1", format="float32"),))):
        output = model(x)
        assert output.dtype == torch.float16
        assert output.isfinite().all()
        assert list(model.state_dict()) == keys
        (output.float() * 1e-6).sum().backward()
        gradient = model.get_parameter("1.scale").grad
        assert gradient is not None
        assert gradient.dtype == torch.float32
        assert gradient.any()
        assert torch.equal(copy.deepcopy(model)(x), output)
    assert not model(x).isfinite().all()


def test_an_island_leaves_float32_models_bit_equal() -> None:
    model, x = perceptron(nn.Tanh, layers=2), inputs(4, 32)
    before = model(x)
    with apply(model, Plan((entry("precision", "0", "2", format="float32"),))):
        assert torch.equal(model(x), before)


def test_an_island_holds_inside_autocast() -> None:
    model, x = perceptron(nn.Tanh, layers=1), inputs(4, 32)
    with apply(model, Plan((entry("precision", "0", format="float32"),))), torch.autocast("cpu"):
        assert model[0](x).dtype == torch.float32
        assert model[2](torch.ones(1, 64)).dtype == torch.bfloat16


def test_bfloat16_is_used_inside_another_autocast() -> None:
    model, x = perceptron(nn.Tanh, layers=1), 1e4 * inputs(4, 32)
    chosen = entry("precision", "0", "1", "2", format="bfloat16")
    with apply(model, Plan((chosen,))), torch.autocast("cpu", dtype=torch.float16):
        assert model[0](x).dtype == torch.bfloat16
        assert model(x).dtype == torch.bfloat16


def test_it_is_proposed_where_float16_is_used_only() -> None:
    model = perceptron(nn.Tanh, layers=1)
    assert "float16" in refused("precision", "GS402", model, profiled(model, 8, 32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_an_island_works_in_models_of_other_types(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)
    apply(model, Plan((entry("precision", "2", format="float32"),)))
    assert model(inputs(5, 6).to(dtype)).dtype == dtype


def test_bfloat16_of_some_modules_goes_with_the_others() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    apply(model, Plan((entry("precision", "0", format="bfloat16"),)))
    assert model(inputs(5, 6)).dtype == torch.float32
    with pytest.raises(PlanError, match="float64"):
        apply(model.double(), Plan((entry("precision", "2", format="bfloat16"),)))


def test_lists_of_modules_are_entered() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            with torch.autocast("cpu", dtype=torch.float16):
                output: Tensor = self.head(x)
            return output

    model = Listed()
    found = proposed("precision", "GS402", model, profiled(model, 20, 6))
    assert found[-1].sites == ("layers.0", "layers.1", "head")
    apply(model, Plan((found[-1],)))


# --- Weights stored in a short type -----------------------------------------------------------


def halves() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).half()


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 40) -> list[float]:
    x, seen = inputs(48, 6), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x.half()).float(), x[:, :3].argmax(dim=1))
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


EVERYWHERE = Plan((entry("precision", "0", "1", "2", format="float32"),))


def test_adam_learns_with_weights_in_float32_and_not_in_float16() -> None:
    model = halves()
    assert torch.tensor(losses(model, adam(model.parameters()))).isnan().any()
    model = halves()
    kept = list(model.parameters())
    patch = apply(model, EVERYWHERE)
    assert all(map(lambda one, other: one is other, model.parameters(), kept))
    assert {each.dtype for each in kept} == {torch.float32}
    seen = losses(model, patch.build_optimizer(model.parameters(), adam))
    assert seen[-1] < 0.5 * seen[0]
    trained = [each.detach().half() for each in kept]
    patch.undo()
    assert all(map(torch.equal, model.parameters(), trained))
    assert all(map(lambda one, other: one is other, model.parameters(), kept))


def test_undoing_gives_the_same_bits_the_same_memory_and_gradients_back() -> None:
    model = halves()
    model(inputs(5, 6).half()).sum().backward()
    model.register_buffer("mean", torch.full((3,), 0.1).bfloat16())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    places = [each.data_ptr() for each in model.parameters()]
    gradients = [each.grad.clone() for each in model.parameters() if each.grad is not None]
    with apply(model, EVERYWHERE):
        assert list(model.state_dict()) == list(before)
        assert {each.dtype for each in model.state_dict().values()} == {torch.float32}
        assert {each.grad.dtype for each in model.parameters() if each.grad is not None} == {
            torch.float32
        }
    after = model.state_dict()
    assert all(after[key].dtype == before[key].dtype for key in before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert [each.data_ptr() for each in model.parameters()] == places
    again = [each.grad for each in model.parameters() if each.grad is not None]
    assert len(again) == len(gradients)
    assert all(map(torch.equal, again, gradients))
    assert {each.dtype for each in again} == {torch.float16}


def test_nothing_stays_where_it_fails_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = halves()

    def fail(*_: object) -> None:
        raise MemoryError("full")

    with monkeypatch.context() as patched:
        patched.setattr("gradscope.remedies.precision.lay_over", fail)
        with pytest.raises(PlanError, match="full"):
            apply(model, EVERYWHERE)
    assert {each.dtype for each in model.parameters()} == {torch.float16}
    assert "stored" not in vars(model[0])
    assert not model._forward_hooks
    assert model(inputs(5, 6).half()).dtype == torch.float16


def test_a_whole_model_hands_on_float32_and_gives_back_its_inputs_type() -> None:
    model, x = halves(), inputs(5, 6).half()
    with apply(model, EVERYWHERE):
        assert model[0](x).dtype == torch.float32
        assert model(x).dtype == torch.float16
        assert copy.deepcopy(model)(x).dtype == torch.float16
    assert model[0](x).dtype == torch.float16
    with apply(model, Plan((entry("precision", "0", format="float32"),))):
        assert model[0](x).dtype == torch.float16


class TiedModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(self.embed(x)))
        return output


def test_shared_weights_go_together() -> None:
    model = TiedModel().half()
    with pytest.raises(PlanError, match="'embed' uses a weight"):
        apply(model, Plan((entry("precision", "head", format="float32"),)))
    assert model.embed.weight.dtype == torch.float16
    x = torch.arange(11)
    with apply(model, Plan((entry("precision", "embed", "head", format="float32"),))):
        assert model.head.weight is model.embed.weight
        assert model.head.weight.dtype == torch.float32
        assert model(x).dtype == torch.float16
    with apply(model, Plan((entry("precision", "embed", "body", "head", format="float32"),))):
        model(x).sum().backward()
    assert model.head.weight is model.embed.weight
    assert model.head.weight.dtype == torch.float16


@pytest.mark.parametrize(
    "make", [nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm], ids=["new", "old"]
)
def test_parametrised_layers_are_stored_in_float32(make: Any) -> None:
    model, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU()), inputs(5, 6).half()
    make(model[0])
    model.half()
    with apply(model, Plan((entry("precision", "0", format="float32"),))):
        model(x).sum().backward()
        assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert {each.dtype for each in model.parameters()} == {torch.float16}


def test_recurrent_layers_and_fused_ones_work() -> None:
    recurrent = nn.LSTM(6, 6).half()
    model = nn.Sequential()
    model.add_module("lstm", recurrent)
    with apply(model, Plan((entry("precision", "lstm", format="float32"),))):
        assert model(inputs(3, 2, 6).half())[0].dtype == torch.float16
    assert recurrent(inputs(3, 2, 6).half())[0].dtype == torch.float16
    fused = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)).half().eval()
    with pytest.raises(PlanError, match="'0' uses a weight"):
        apply(fused, Plan((entry("precision", "0.self_attn", format="float32"),)))
    with apply(fused, Plan((entry("precision", "0", format="float32"),))), torch.no_grad():
        assert fused(inputs(2, 3, 8).half()).dtype == torch.float16


def test_moments_in_a_short_type_stay_behind() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).bfloat16()
    old = adam(model.parameters())
    model(inputs(5, 6).bfloat16()).float().sum().backward()
    old.step()
    patch = apply(model, Plan((entry("precision", "2", format="float32"),)))
    new = patch.build_optimizer(model.parameters(), adam, old)
    assert {id(each) for each in new.state} == {id(each) for each in model[0].parameters()}
    model(inputs(5, 6).bfloat16()).float().sum().backward()
    new.step()


def test_float32_everywhere_is_proposed_first_where_weights_are_float16() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = halves()
            self.head = nn.Linear(3, 3).half()

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(self.body(x.half())).float()
            return output

    model = Half()
    profile = profiled(model, 20, 6)
    found = proposed("precision", "GS402", model, profile, "body.0")
    assert [(each.sites, each.parameters["format"]) for each in found] == [
        (("body", "head"), "float32"),
        (("body.0",), "float32"),
        (("body", "head"), "bfloat16"),
    ]
    everywhere = proposed("precision", "GS402", model, profile, "body.0", "body.2", "head")
    assert [each.sites for each in everywhere] == [("body", "head")] * 2
