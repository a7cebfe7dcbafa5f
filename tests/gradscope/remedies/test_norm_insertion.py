"""Normalisation: what each layer gives, and that it can start as the identity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradscope.errors import PlanError
from gradscope.patch import apply
from gradscope.records import Plan
from gradscope.remedies.norms import CustomNorm, start_as_identity
from gradscope.rules.subjects import perceptron
from tests.gradscope.remedies.setting import entry, inputs, profiled, proposed, refused


@pytest.mark.parametrize(("shape", "axis"), [((64, 5), 1), ((8, 5, 6, 6), 1), ((8, 9, 5), 2)])
def test_custom_norm_gives_zero_mean_and_unit_variance(shape: tuple[int, ...], axis: int) -> None:
    x = 30 * inputs(*shape) - 7
    for training in (True, False):
        y = CustomNorm(axis).train(training)(x).movedim(axis, 0).flatten(1)
        torch.testing.assert_close(y.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.var(1, correction=0), torch.ones(5))
    assert not list(CustomNorm().parameters())
    assert CustomNorm()(torch.ones(4, 5)).isfinite().all()


@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.BatchNorm1d(6), (40, 6)), (nn.BatchNorm2d(6), (10, 6, 4, 4))]
)
def test_batch_norm_starts_as_the_identity_in_both_modes(
    norm: nn.Module, shape: tuple[int, ...]
) -> None:
    x = 5 * inputs(*shape) + 3
    with torch.no_grad():
        start_as_identity(norm, x)
    torch.testing.assert_close(norm.eval()(x), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.train()(x), x, rtol=1e-5, atol=1e-5)
    by_unit = x.movedim(1, 0).flatten(1)
    torch.testing.assert_close(norm.bias, by_unit.mean(1))
    torch.testing.assert_close(norm.weight, by_unit.std(1, correction=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.RMSNorm(6)])
def test_others_start_as_near_to_the_identity_as_they_can(norm: nn.Module) -> None:
    """No other gamma and beta of a unit have a smaller squared error on the batch."""
    x = 5 * inputs(200, 6) + 3 * torch.arange(6)
    standard = (norm(x) - x).square().mean()
    with torch.no_grad():
        start_as_identity(norm, x)
        error = (norm(x) - x).square().mean()
        assert error < 0.5 * standard
        for parameter in norm.parameters():
            for change in (0.01, -0.01):
                parameter[2] += change
                assert (norm(x) - x).square().mean() >= error
                parameter[2] -= change


def test_a_unit_that_never_varies_stays_finite() -> None:
    for norm in (nn.BatchNorm1d(3), nn.LayerNorm(3), nn.RMSNorm(3)):
        with torch.no_grad():
            start_as_identity(norm, torch.zeros(8, 3))
            assert norm(torch.zeros(8, 3)).isfinite().all()


def test_trained_weights_keep_their_function() -> None:
    torch.manual_seed(0)
    model = perceptron(nn.Sigmoid, layers=4, width=16)
    x = inputs(32, 32)
    before = model(x)
    plan = Plan((entry("norm-insertion", "1", "3", layers="BatchNorm1d(16)", start="identity"),))
    with apply(model, plan):
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-6)
        gamma = model[1][0].weight.clone()  # type: ignore[index, union-attr]
        model(2 * x)
        assert torch.equal(model[1][0].weight, gamma), "only the first batch counts"  # type: ignore[index, union-attr]
    standard = Plan((entry("norm-insertion", "1", "3", layers="BatchNorm1d(16)"),))
    with apply(model, standard):
        assert not torch.allclose(model(x), before, atol=1e-3)


def test_custom_norm_can_be_written_into_a_plan() -> None:
    model = perceptron(nn.Sigmoid, layers=2, width=16)
    x = inputs(32, 32)
    keys = list(model.state_dict())
    with apply(model, Plan((entry("norm-insertion", "1", "3", layers="CustomNorm(1)"),))):
        assert list(model.state_dict()) == keys
        y = model[1][0](model[0](x))  # type: ignore[index, operator]
        torch.testing.assert_close(y.mean(0), torch.zeros(16), atol=1e-5, rtol=0)


def test_what_cannot_start_so_is_refused() -> None:
    model = perceptron(nn.Sigmoid, layers=1, width=16)
    wrong = entry("norm-insertion", "1", layers="CustomNorm(1)", start="identity")
    with pytest.raises(PlanError, match="no parameters"):
        apply(model, Plan((wrong,)))


def test_the_layout_decides_which_layers_are_tried() -> None:
    def kinds(model: nn.Module, *shape: int) -> list[str]:
        found = proposed("norm-insertion", "GS101", model, profiled(model, *shape))
        return [str(each.parameters["layers"]) for each in found]

    flat = perceptron(nn.Sigmoid, layers=2, width=16)
    assert kinds(flat, 16, 32) == ["BatchNorm1d(16)", "LayerNorm(16)"]
    images = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 4))
    assert kinds(images, 16, 3, 8, 8) == ["BatchNorm2d(12)", "GroupNorm(4, 12)"]
    sequences = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    assert kinds(sequences, 16, 9, 6) == ["LayerNorm(12)", "RMSNorm(12)"]


def test_a_call_is_refused_with_the_lines_to_write() -> None:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(torch.sigmoid(self.one(x)))  # type: ignore[no-any-return]

    model = Called()
    reason = refused("norm-insertion", "GS101", model, profiled(model, 16, 8))
    assert "nn.BatchNorm1d(16)" in reason
    assert "sigmoid(self.norm(x)) in place of sigmoid(x)" in reason


def test_what_was_loaded_is_not_set_from_a_batch_again() -> None:
    plan = Plan((entry("norm-insertion", "1", layers="BatchNorm1d(6)", start="identity"),))

    def patched() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
        apply(model, plan)
        return model.eval()

    first, second = patched(), patched()
    first(inputs(50, 6))
    second.load_state_dict(first.state_dict())
    other = 3 * inputs(50, 6, seed=2)
    assert torch.equal(second(other), first(other))
    plain = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    third = patched()
    third.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(third(other), plain(other))


@pytest.mark.parametrize("site", ["0", "1"])
def test_names_of_parameters_stay_or_it_is_refused(site: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.PReLU(), nn.Linear(6, 3))
    plan = Plan((entry("norm-insertion", site, layers="LayerNorm(6)"),))
    with pytest.raises(PlanError, match="whose names would change"):
        apply(model, plan)


def test_parameters_that_are_whole_numbers_are_no_model_for_the_layer() -> None:
    counted = nn.Identity()
    counted.count = nn.Parameter(torch.zeros(1, dtype=torch.long), requires_grad=False)
    model = nn.Sequential(counted, nn.Linear(6, 6), nn.ReLU()).double()
    apply(model, Plan((entry("norm-insertion", "2", layers="LayerNorm(6)"),)))
    assert model(inputs(5, 6).double()).dtype == torch.float64
