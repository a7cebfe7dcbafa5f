"""Weights drawn anew: their distributions, LSUV's variance, and whom it is refused to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope import registry
from gradscope.errors import PlanError
from gradscope.patch import apply
from gradscope.records import Plan
from gradscope.rules.subjects import perceptron
from tests.gradscope.remedies.setting import entry, inputs, of_rule, profiled, proposed, refused


def drawn(**parameters: Any) -> Tensor:
    model = nn.Sequential(nn.Linear(256, 512))
    apply(model, Plan((entry("re-initialise", "0", **parameters),), seed=3))
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    assert not model[0].bias.any()  # type: ignore[operator, union-attr]
    return weight.detach()


@pytest.mark.parametrize(
    ("parameters", "deviation"),
    [
        ({"scheme": "he"}, (2 / 256) ** 0.5),
        ({"scheme": "xavier"}, (2 / 768) ** 0.5),
        ({"scheme": "xavier", "gain": 4.0}, 4 * (2 / 768) ** 0.5),
        ({"scheme": "normal"}, 0.05),
        ({"scheme": "normal", "sigma": 1.0}, 1.0),
        ({"scheme": "normal", "sigma": 10}, 10.0),
    ],
)
def test_weights_have_the_deviation_asked_for(parameters: Any, deviation: float) -> None:
    assert drawn(**parameters).std().item() == pytest.approx(deviation, rel=0.01)


def test_orthogonal_weights_are_orthogonal() -> None:
    weight = drawn(scheme="orthogonal", gain=3.0)
    torch.testing.assert_close(weight.T @ weight, 9 * torch.eye(256), atol=1e-4, rtol=0)


def test_a_setting_of_another_scheme_is_refused() -> None:
    with pytest.raises(PlanError, match="scheme he takes no gain"):
        drawn(scheme="he", gain=2.0)
    with pytest.raises(PlanError, match="above 0 for sigma"):
        drawn(scheme="normal", sigma=-1.0)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_lsuv_gives_every_layer_unit_variance_on_the_first_batch(
    activation: type[nn.Module],
) -> None:
    torch.manual_seed(0)
    model = perceptron(activation, layers=6)
    for parameter in model.parameters():
        parameter.data *= 0.05
    x = 7 * inputs(64, 32)
    sites = [name for name, module in model.named_children() if isinstance(module, nn.Linear)]
    untouched = [value.clone() for value in model.parameters()]
    with apply(model, Plan((entry("re-initialise", *sites, scheme="lsuv"),))):
        before = model(x)
        signal = x
        for layer in model:
            signal = layer(signal)
            if isinstance(layer, nn.Linear):
                assert signal.var(correction=0).item() == pytest.approx(1, rel=1e-3)
        assert torch.equal(signal, before), "the first pass itself uses the fitted weights"
        weights = [value.clone() for value in model.parameters()]
        model(3 * x)
        assert all(map(torch.equal, model.parameters(), weights)), "later batches change nothing"
    assert all(map(torch.equal, model.parameters(), untouched))


def test_lsuv_of_convolutions_and_under_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    apply(model, Plan((entry("re-initialise", "0", "3", scheme="lsuv"),)))
    output = model(inputs(16, 3, 8, 8))
    assert output.var(correction=0).item() == pytest.approx(1, rel=1e-3)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_attention_is_drawn_projection_by_projection() -> None:
    model = nn.Sequential()
    model.add_module("attention", nn.MultiheadAttention(64, 4))
    apply(model, Plan((entry("re-initialise", "attention", scheme="xavier"),)))
    weight = model.get_parameter("attention.in_proj_weight")
    assert weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)


def test_sigmoids_are_offered_larger_weights() -> None:
    model = perceptron(nn.Sigmoid, layers=3)
    found = proposed("re-initialise", "GS101", model, profiled(model, 16, 32))
    settings = [each.parameters for each in found]
    assert {"scheme": "xavier", "gain": 4.0} in settings
    assert {"scheme": "normal", "sigma": 1.0} in settings


def test_trained_weights_are_not_lost() -> None:
    torch.manual_seed(0)
    model = perceptron(nn.ReLU, layers=2)
    x, y = inputs(64, 32, seed=0), torch.arange(64) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    profile = profiled(model, 64, 32)
    assert "trained" in refused("re-initialise", "GS101", model, profile)
    with_norm = proposed("norm-insertion", "GS101", model, profile)
    assert {each.parameters["start"] for each in with_norm} == {"identity"}
    (skip,) = proposed("skip-connection", "GS101", model, profile)
    assert skip.parameters == {"gate": "zero"}


def test_what_an_optimizer_has_to_forget_is_told() -> None:
    model = perceptron(nn.ReLU, layers=1)
    renewed = registry.remedy("re-initialise").renewed(
        model, entry("re-initialise", "0", scheme="he")
    )
    assert [id(each) for each in renewed] == [id(model[0].weight), id(model[0].bias)]


@pytest.mark.parametrize("code", ["GS302", "GS303"])
def test_it_treats_bad_weights(code: str) -> None:
    finding, profile, model = of_rule(code)
    answers = registry.remedy("re-initialise").propose(finding, profile, model)
    assert any("scheme" in getattr(answer, "parameters", {}) for answer in answers)


def test_loaded_weights_are_not_scaled() -> None:
    plan = Plan((entry("re-initialise", "0", scheme="lsuv"),))
    models = [nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]
    for model in models:
        apply(model, plan)
    models[0](inputs(50, 6))
    models[1].load_state_dict(models[0].state_dict())
    models[1](9 * inputs(50, 6))
    assert torch.equal(models[0].get_parameter("0.weight"), models[1].get_parameter("0.weight"))


@pytest.mark.parametrize("scheme", ["orthogonal", "lsuv"])
def test_the_layout_in_memory_does_not_matter(scheme: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    apply(model, Plan((entry("re-initialise", "0", scheme=scheme),)))
    rows = model.get_parameter("0.weight").detach().flatten(1)
    gram = rows @ rows.T
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(8))
    assert model.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)


def _frozen(layer: nn.Linear) -> None:
    layer.requires_grad_(False)


def _lazy(layer: nn.Linear) -> None:
    layer.__class__ = nn.LazyLinear


@pytest.mark.parametrize(
    "make",
    [
        _frozen,
        nn.utils.parametrizations.weight_norm,
        nn.utils.spectral_norm,
        _lazy,
    ],
    ids=["frozen", "parametrised", "hooked", "lazy"],
)
def test_weights_that_are_not_its_own_stay(make: Any) -> None:
    """In plans that are edited by hand, too; recycling dormant units draws weights as well."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    make(model[0])
    for plan in (
        Plan((entry("re-initialise", "0", scheme="he"),)),
        Plan((entry("recycle-dormant", "1"),)),
    ):
        with pytest.raises(PlanError, match="trained and their own"):
            apply(model, plan)
