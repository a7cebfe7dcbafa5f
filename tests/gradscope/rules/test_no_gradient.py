"""GS103: which parameters without a gradient are a fault, and which look set aside by intent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.records import Finding, ParameterProfile, Severity, SiteProfile, Skipped
from gradscope.rules.no_gradient import NoGradient
from tests.gradscope.rules.making import layer, parameter, profile

RULE = NoGradient()

UNREACHED = {"backward_rms": (math.nan,) * 8}
TOKENS = {"shape": (64, 16, 32)}


def silent(name: str) -> ParameterProfile:
    return parameter(f"{name}.weight", gradient_norm=(None,) * 8)


def severity(sites: list[SiteProfile], *names: str) -> Severity | None:
    """With those modules' weights silent and everything else learning."""
    learning = [parameter(f"{site.name}.weight") for site in sites if site.name not in names]
    parameters = (*map(silent, names), *learning)
    found = RULE.check(profile(*sites, parameters=parameters), RULE.limits)
    assert not isinstance(found, Skipped)
    if found is None:
        return None
    assert found.sites == tuple(f"{name}.weight" for name in names)
    return found.severity


def test_a_trunk_that_is_cut_off() -> None:
    sites = [layer("trunk", 0, **UNREACHED), layer("head", 1)]
    assert severity(sites, "trunk") is Severity.ERROR


def test_a_branch_that_is_cut_off() -> None:
    sites = [layer("stem", 0), layer("a", 1, **UNREACHED), layer("b", 2, **UNREACHED)]
    assert severity([*sites, layer("head", 3)], "a", "b") is Severity.ERROR


@pytest.mark.parametrize(
    ("sites", "name"),
    [
        ([layer("stem", 0), layer("last", 1, **UNREACHED), layer("head", 2)], "last"),
        (
            [
                layer("stem", 0, **TOKENS),
                layer("pooled", 1, **UNREACHED),
                layer("head", 2, **TOKENS),
            ],
            "pooled",
        ),
        (
            [
                layer("stem", 0),
                layer("one", 1, is_output=True),
                layer("other", 2, is_output=True, **UNREACHED),
            ],
            "other",
        ),
    ],
    ids=["a single layer", "fewer axes", "another output"],
)
def test_what_looks_set_aside_gets_a_remark(sites: list[SiteProfile], name: str) -> None:
    assert severity(sites, name) is Severity.INFO


def test_without_any_gradient_everything_is_cut_off() -> None:
    sites = [layer("stem", 0, **UNREACHED), layer("head", 1, is_output=True, **UNREACHED)]
    assert severity(sites, "stem", "head") is Severity.ERROR


def test_a_model_of_which_everything_is_frozen() -> None:
    frozen = [parameter(name, trainable=False) for name in ("0.weight", "2.weight")]
    finding = RULE.check(profile(parameters=tuple(frozen)), RULE.limits)
    assert isinstance(finding, Finding)
    assert finding.message == "All 2 parameters of the model are frozen."


def check(*parameters: ParameterProfile, **changed: Any) -> Finding | Skipped | None:
    return RULE.check(profile(parameters=parameters, **changed), RULE.limits)


def test_zeros_count_only_where_updates_are_made() -> None:
    zero = parameter("2.weight", gradient_norm=(0.0,) * 8)
    assert isinstance(check(parameter(), zero), Finding)
    assert check(parameter(), zero, optimizer=None) is None


def test_frozen_unreached_and_cancelling_parameters_are_no_fault() -> None:
    frozen = parameter("2.weight", trainable=False, gradient_norm=(None,) * 8)
    elsewhere = parameter("3.weight", reached=False, gradient_norm=(None,) * 8)
    cancels = parameter("0.bias", shape=(32,), gradient_norm=(0.0,) * 8)
    assert check(parameter(), frozen, elsewhere, cancels) is None
    assert isinstance(check(silent("0"), losses=(0.0,) * 8), Skipped)


# --- As they are profiled ---------------------------------------------------------------------


class Sometimes(nn.Module):
    """Each pass goes through one of eight branches."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x + self.branches[self.passes % 8](x)  # type: ignore[no-any-return]


class Unused(nn.Module):
    """Has a token for a task that it is not trained for."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def differences(output: Tensor, _: Tensor) -> Tensor:
    """Of pairs of samples: what is added to all outputs drops out."""
    return (output[::2] - output[1::2]).square().mean()


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (Sometimes, lambda output, _: output.square().mean()),
        (Unused, lambda output, _: output.square().mean()),
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), differences),
    ],
    ids=["used at times", "never used", "bias that cancels"],
)
def test_parts_used_at_times_and_biases_that_cancel_are_no_fault(
    model: Callable[[], nn.Module], loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    batches = [torch.randn(16, 4) for _ in range(8)]
    seen = gradscope.profile(
        model(), batches, loss, optimizer=lambda p: torch.optim.SGD(p, lr=0.01)
    )
    assert "GS103" not in gradscope.diagnose(seen).codes


def test_a_weight_behind_a_detached_output_is_found() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[0].register_forward_hook(lambda module, inputs, output: output.detach())
    seen = gradscope.profile(model, [torch.randn(16, 4)], lambda output, _: output.square().mean())
    (finding,) = [each for each in gradscope.diagnose(seen) if each.code == "GS103"]
    assert set(finding.sites) == {"0.weight", "0.bias"}
