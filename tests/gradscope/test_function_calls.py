"""Activations that are function calls: found, named, and refused by what works on modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope
from gradscope.records import Findings, Plan, Profile


class Called(nn.Module):
    """Dead ReLUs, called as functions; one module between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.act = nn.ReLU()
        self.head = nn.Linear(8, 2)
        with torch.no_grad():
            for layer in self.layers:
                layer.bias.fill_(-50.0)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.layers[0](x))
        x = self.act(self.layers[1](x))
        return self.head(self.layers[2](x).relu_())  # type: ignore[no-any-return]


def examined(model: nn.Module) -> tuple[Profile, Findings, Plan]:
    torch.manual_seed(0)
    profile = gradscope.profile(
        model, [torch.randn(512, 8) for _ in range(4)], lambda output, _: output.square().mean()
    )
    findings = gradscope.diagnose(profile)
    return profile, findings, gradscope.prescribe(findings, model, unsafe=True)


def test_dead_calls_are_found_and_what_works_on_modules_says_why_not() -> None:
    profile, findings, plan = examined(Called())
    assert [site.name for site in profile.activations] == ["::relu@0", "act", "::relu@1"]
    assert [site.module for site in profile.activations] == ["", "act", ""]
    (dead,) = [finding for finding in findings if finding.code == "GS201"]
    assert set(dead.sites) == {"::relu@0", "act", "::relu@1"}
    for remedy in ("activation-swap", "norm-insertion"):
        refused = {
            site
            for refusal in plan.refusals
            if refusal.remedy == remedy and "make it a module" in refusal.reason
            for site in refusal.sites
        }
        assert refused == {"::relu@0", "::relu@1"}, remedy
    # What can be reached is reached all the same.
    prescribed = [plan.prescriptions, *plan.alternatives]
    assert any(one.sites == ("act",) for each in prescribed for one in each)


def test_plans_of_a_wrapped_model_name_the_modules_inside() -> None:
    model = nn.DataParallel(Called())
    _, _, plan = examined(model)
    assert plan.prescriptions
    with gradscope.apply(model, plan) as patch:
        assert patch.model is model
    assert not hasattr(model.module.act, "derivative")
