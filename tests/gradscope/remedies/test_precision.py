"""Number formats: float32 where float16 overflows, bfloat16 all over."""

from __future__ import annotations

import copy

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
        assert {each.dtype for each in model.parameters()} == {torch.float16}
        (output.float() * 1e-6).sum().backward()
        gradient = model.get_parameter("1.scale").grad
        assert gradient is not None
        assert gradient.dtype == torch.float16
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
