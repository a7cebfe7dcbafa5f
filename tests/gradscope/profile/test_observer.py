"""Which sites there are, what their units are, and that no hook stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.records import Profile, Role, SiteProfile


def mean_square(output: Any, batch: Any) -> Tensor:
    first = output[0] if isinstance(output, tuple) else output
    return first.square().mean()  # type: ignore[no-any-return]


def profile(model: nn.Module, *shape: int) -> Profile:
    torch.manual_seed(0)
    batches = [torch.randn(*shape), torch.randn(*shape)]
    return gradscope.profile(model, batches, mean_square, steps=2)


def names(found: Profile) -> list[str]:
    return [site.name for site in found.sites]


# --- Sites ------------------------------------------------------------------------------------


class Block(nn.Module):
    """A linear layer and an activation, recomputed in the backward pass where asked for."""

    def __init__(self, recompute: bool | None) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 2)
        self.block = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4), nn.ReLU())
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        if self.recompute is None:
            h = self.block(h)
        else:
            h = checkpoint(self.block, h, use_reentrant=self.recompute)
        return self.after(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_activations_are_seen_once(reentrant: bool) -> None:
    torch.manual_seed(0)
    plain = Block(None)
    recomputing = Block(reentrant)
    recomputing.load_state_dict(plain.state_dict())
    expected, found = profile(plain, 8, 4), profile(recomputing, 8, 4)
    assert names(found) == names(expected)
    for one, other in zip(found.sites, expected.sites, strict=True):
        assert one.backward_rms == pytest.approx(other.backward_rms), one.name
        assert one.observations == other.observations, one.name


def test_what_computes_a_weight_is_no_site() -> None:
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    expected = names(profile(plain, 8, 4))
    nn.utils.parametrizations.weight_norm(plain[0])
    nn.utils.parametrizations.spectral_norm(plain[2])
    assert names(profile(plain, 8, 4)) == expected


def test_a_shared_module_has_one_name_and_counts_its_uses() -> None:
    layer, act = nn.Linear(4, 4), nn.ReLU()
    found = profile(nn.Sequential(layer, act, layer, act, layer), 8, 4)
    assert names(found) == ["0", "1", "0@1", "1@1", "0@2"]
    assert [site.index for site in found.sites] == [0, 1, 2, 3, 4]
    assert [site.is_output for site in found.sites] == [False] * 4 + [True]


@pytest.mark.parametrize("inplace", [True, False])
def test_only_the_last_writer_of_an_output_is_the_output(inplace: bool) -> None:
    found = profile(nn.Sequential(nn.Linear(4, 2), nn.ReLU(inplace=inplace)), 8, 4)
    assert [site.is_output for site in found.sites] == [False, True]


def test_an_output_inside_a_structure_is_found() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head, self.aside = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            h = self.trunk(x)
            return self.head(h), {"aside": self.aside(h)}

    found = profile(Two(), 8, 4)
    assert [site.is_output for site in found.sites] == [False, True, True]
    # What the loss ignores gets no signal, which is no number.
    assert str(found.site("aside").backward_rms) == "(nan, nan)"


def test_a_model_that_is_one_layer_is_its_only_site() -> None:
    found = profile(nn.Linear(4, 2), 8, 4)
    [site] = found.sites
    assert (site.name, site.module, site.role) == ("(model)", "", Role.LAYER)
    assert site.is_output
    assert found.parameters[0].reached
    assert "variation" not in [entry.what for entry in found.skipped]


def test_batches_of_one_sample_are_said_to_be_so() -> None:
    found = profile(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), 1, 4)
    assert "variation" in [entry.what for entry in found.skipped]
    assert str(found.site("1").variation) == "(nan, nan)"


def test_parameters_of_a_container_that_never_runs_are_reached_all_the_same() -> None:
    """A ParameterList is not called, and attention calls its out_proj's weight, not out_proj."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.ones(4, 4)])
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = x @ self.weights[0]
            return self.attention(x, x, x)[0]  # type: ignore[no-any-return]

    found = profile(Listed(), 8, 3, 4)
    for entry in found.parameters:
        assert all(entry.gradient_norm), entry.name
        assert entry.reached, entry.name


# --- Units ------------------------------------------------------------------------------------


class Gain(nn.Module):
    """A convolution with a learnt gain, as residual blocks with a gated branch have one."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.convolution(x)  # type: ignore[no-any-return]


CHANNELS_SECOND: list[tuple[str, Callable[[], list[nn.Module]]]] = [
    ("convolution", lambda: [nn.Conv2d(3, 4, 3, padding=1)]),
    ("batch norm", lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)]),
    ("group norm", lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4)]),
    ("layer norm", lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm([4, 6, 5])]),
    ("transposed", lambda: [nn.ConvTranspose2d(3, 4, 3, padding=1)]),
    ("gain", lambda: [Gain()]),
]


@pytest.mark.parametrize("build", [pytest.param(build, id=name) for name, build in CHANNELS_SECOND])
def test_units_of_convolutions_are_channels(build: Callable[[], list[nn.Module]]) -> None:
    layers = build()
    found = profile(nn.Sequential(*layers, nn.ReLU()), 8, 3, 6, 5)
    site = found.activations[0]
    assert (site.units, site.unit_axis) == (4, 1)
    assert site.observations == 2 * 8 * 6 * 5


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(5, 4), nn.LayerNorm(4)],
        [nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(48, 4)],
        [nn.Linear(5, 4), nn.RMSNorm(4)],
    ],
    ids=["layer norm", "behind convolutions", "rms norm"],
)
def test_units_of_linear_layers_are_features(layers: list[nn.Module]) -> None:
    site: SiteProfile = profile(nn.Sequential(*layers, nn.ReLU()), 8, 3, 6, 5).activations[0]
    assert site.units == 4
    assert site.unit_axis == len(site.shape) - 1


def test_dead_units_are_dead_on_every_batch_and_position() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.copy_(torch.tensor([0.0, -1.5, -9.0]))
    quiet = torch.zeros(4, 1, 2, 2)
    single = quiet.clone()
    single[3, 0, 1, 1] = 2.0  # wakes channels 0 and 1, at one position of one sample
    found = gradscope.profile(model, [quiet, single], mean_square, steps=1)
    assert found.site("1").dead == pytest.approx(1 / 3)
    assert gradscope.profile(model, [quiet], mean_square, steps=1).site("1").dead == 1


@pytest.mark.parametrize(("share", "saturated"), [(0.96, 1.0), (0.95, 1.0), (0.94, 0.0)])
def test_saturated_units_are_so_on_most_observations(share: float, saturated: float) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    x = torch.zeros(100, 1)
    x[: round(100 * share)] = 10.0
    found = gradscope.profile(model, [x], mean_square, steps=1)
    assert found.site("1").saturated == saturated


# --- Gradients --------------------------------------------------------------------------------


def test_the_backward_signal_does_not_depend_on_the_batch_size() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(8, 4)
    few, many = (
        gradscope.profile(model, [batch], mean_square, steps=1) for batch in (x, x.repeat(16, 1))
    )
    for site in few.sites:
        assert site.backward_rms == pytest.approx(many.site(site.name).backward_rms), site.name


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_are_measured_where_the_caller_has_switched_them_off(
    context: Callable[[], Any],
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    batches = [torch.randn(8, 4)]
    expected = gradscope.profile(model, batches, mean_square, steps=1)
    with context():
        found = gradscope.profile(model, batches, mean_square, steps=1)
        assert not torch.is_grad_enabled()
    assert found == expected


def test_a_loss_that_differentiates_on_its_own_does_not_leak_into_the_signal() -> None:
    """A gradient penalty runs a backward pass of its own through the same sites."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)

    def penalised(output: Tensor, batch: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(output.sum(), batch, create_graph=True)
        return output.square().mean() + 0 * slope.square().mean()

    expected = gradscope.profile(model, [x], mean_square, steps=1)
    found = gradscope.profile(model, [x], penalised, steps=1)
    for site in expected.sites:
        assert found.site(site.name).backward_rms == pytest.approx(site.backward_rms), site.name
