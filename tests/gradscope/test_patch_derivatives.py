"""Artificial derivatives as patches: by name, pattern and finding; set, undone, proposed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope
from gradscope import registry
from gradscope.errors import PlanError, UsageError
from gradscope.records import Finding, Findings, Plan, Prescription, Severity
from gradscope.reports import read_plan, render_plan


class Mixed(nn.Module):
    """Dead and live ReLUs, as modules and as calls, after layers and a convolution."""

    def __init__(self, dead: float = -10.0) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.one, self.two, self.head = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        with torch.no_grad():
            self.conv.bias[:5] = dead  # type: ignore[index]
            self.one.bias[:6] = dead

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x.unsqueeze(1))).flatten(1)
        x = functional.relu(self.one(x))
        return self.head(torch.relu(self.two(x)))  # type: ignore[no-any-return]


def mixed(dead: float = -10.0) -> Mixed:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Mixed(dead)


def inputs(count: int = 512) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(3))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    y = model(inputs()).square().mean()
    found = torch.autograd.grad(y, list(model.parameters()), allow_unused=True)
    return {
        name: torch.zeros_like(each) if gradient is None else gradient
        for (name, each), gradient in zip(model.named_parameters(), found, strict=True)
    }


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    after = gradients(model)
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def entry(remedy: str, *sites: str, **parameters: Any) -> Prescription:
    return Prescription(remedy, registry.remedy(remedy).changes, sites, parameters, "", "a test")


def diagnosed(model: nn.Module) -> Findings:
    profile = gradscope.profile(
        model, [inputs() for _ in range(4)], lambda output, _: output.square().mean()
    )
    return gradscope.diagnose(profile)


# --- Choosing sites and strengths -------------------------------------------------------------


def test_sites_by_name_pattern_and_default() -> None:
    model = mixed()
    before = gradients(model)
    for sites, expected in (
        ("act", {"conv"}),
        ("::relu@1", {"conv", "one", "two"}),
        (["::relu@0"], {"conv", "one"}),
        ("a?t", {"conv"}),
        (None, {"conv"}),
        (("*", "*::relu"), {"conv", "one", "two"}),
    ):
        with gradscope.replace_derivative(model, "relu-logistic", sites, k=3.5, selective=False):
            assert changed(model, before) == expected
        assert not changed(model, before)


def test_sites_of_findings() -> None:
    model = mixed()
    sites = ("act", "::relu@0", "conv", "::sigmoid@0")
    finding = Finding("GS201", "dead-relu", Severity.ERROR, sites, "it is.", {})
    before = gradients(model)
    with gradscope.replace_derivative(model, "relu-logistic", finding, selective=False) as patch:
        assert list(patch.strengths) == ["act", "::relu@0"]
        assert changed(model, before) == {"conv", "one"}
    with pytest.raises(PlanError, match="none of the sites"):
        gradscope.replace_derivative(model, "tanh-min", finding)


def test_of_findings_those_modules_are_taken_that_the_derivative_stands_in_for() -> None:
    """To Python, an nn.ReLU6 is an nn.Hardtanh; and a subclass may compute something else."""

    class Doubled(nn.Hardtanh):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU6(), nn.Hardtanh(), Doubled())
    finding = Finding("GS201", "dead-relu", Severity.ERROR, ("1", "2", "3"), "it is.", {})
    with gradscope.replace_derivative(model, "hardtanh-logistic", finding) as patch:
        assert list(patch.strengths) == ["2"]
    with gradscope.replace_derivative(model, "relu6-logistic", finding) as patch:
        assert list(patch.strengths) == ["1"]


def test_strengths_are_set_for_each_site() -> None:
    model = mixed()
    plain, before = model(inputs()), gradients(model)
    with gradscope.replace_derivative(
        model, "relu-logistic", ("*", "*::relu"), k=3.5, selective=False
    ) as patch:
        full = gradients(model)
        patch.set(0.0, "*::relu")
        assert patch.strengths == {"act": 1.0, "::relu": 0.0}
        assert changed(model, before) == {"conv"}
        patch.set(0.0)
        assert not changed(model, before)
        patch.set(0.25)
        assert torch.equal(model(inputs()), plain)
        half = gradients(model)
        # The last activation alone shapes this one, so it is linear in the strength.
        expected = 0.25 * full["two.bias"] + 0.75 * before["two.bias"]
        torch.testing.assert_close(half["two.bias"], expected)
        for wrong in (-0.1, 1.5, float("nan"), "half", True):
            with pytest.raises(UsageError, match="from 0 to 1"):
                patch.set(wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"no site 'conv'; it has act, ::relu"):
            patch.set(0.5, "conv")
    with pytest.raises(UsageError, match="no artificial derivatives"):
        patch.set(0.5)


def test_selective_keeps_the_gradient_of_a_live_model() -> None:
    model = mixed(dead=0.0)
    with torch.no_grad():
        model.one.bias.fill_(1.0)
        model.two.bias.fill_(1.0)
    before = gradients(model)
    with gradscope.replace_derivative(model, "relu-logistic", "*::relu", selective=True, k=3.5):
        assert not changed(model, before)
    model = mixed()
    before = gradients(model)
    assert not before["one.bias"][:6].any()
    with gradscope.replace_derivative(model, "relu-logistic", "::relu@0", selective=True, k=0.1):
        after = gradients(model)
    assert after["one.bias"][:6].all()
    assert torch.equal(after["one.bias"][6:], before["one.bias"][6:])


# --- Transactions -----------------------------------------------------------------------------


def test_a_failure_half_way_leaves_nothing() -> None:
    model = mixed()
    before = gradients(model)
    places = [(type(each), sorted(vars(each))) for each in model.modules()]
    good = entry(
        "artificial-derivative", "act", "::relu@1", derivative="relu-logistic", selective=False
    )
    for sites in (("one",), ("act", "two::relu"), ("::gelu",)):
        bad = entry("leaky-backward", *sites)
        with pytest.raises(PlanError, match=r"Prescription 2 \(leaky-backward\)"):
            gradscope.apply(model, Plan((good, bad)))
        assert [(type(each), sorted(vars(each))) for each in model.modules()] == places
        assert not changed(model, before)


def test_all_three_remedies_have_their_own_derivative() -> None:
    model = mixed()
    for prescription in (
        entry(
            "artificial-derivative",
            "::relu@1",
            derivative="relu-logistic",
            selective=False,
            strength=0.5,
        ),
        entry("leaky-backward", "::relu@1", slope=0.2),
    ):
        saved = read_plan(render_plan(Plan((prescription,))), "plan.json")
        before = gradients(model)
        with gradscope.apply(model, saved):
            assert changed(model, before) == {"conv", "one", "two"}
    sigmoid = nn.Sequential(nn.Linear(8, 4), nn.Sigmoid(), nn.Linear(4, 2))
    with torch.no_grad():
        sigmoid[0].bias.fill_(80.0)
    before = gradients(sigmoid)
    assert not before["0.bias"].any()
    with gradscope.apply(sigmoid, Plan((entry("beta-derivative", "1", beta=0.05),))):
        y = sigmoid(inputs())
        upstream = torch.autograd.grad(y.square().mean(), y, retain_graph=True)[0]
        expected = 0.05 * (upstream @ sigmoid[2].weight).sum(0)
        torch.testing.assert_close(gradients(sigmoid)["0.bias"], expected)


def test_a_leaky_backward_is_that_of_a_leaky_relu() -> None:
    x = torch.tensor([-3.0, -0.0, 0.0, 2.0], requires_grad=True)
    model = nn.Sequential(nn.ReLU())
    with gradscope.apply(model, Plan((entry("leaky-backward", "0", slope=0.2),))):
        y = model(x)
        assert torch.equal(y, torch.relu(x))
        (found,) = torch.autograd.grad(y.sum(), x)
    assert found.tolist() == pytest.approx([0.2, 0.2, 0.2, 1.0])


# --- Plans edited by hand ---------------------------------------------------------------------

WRONG = {
    "k": ({"k": -1.0}, "k"),
    "k in words": ({"k": "steep"}, "steep"),
    "a parameter of another": ({"beta": 0.1}, "'beta'"),
    "strength": ({"strength": 2.0}, "strength"),
    "strength in words": ({"strength": "full"}, "strength"),
    "selective": ({"selective": "yes"}, "selective"),
    "axes": ({"unit_axis": "1, 2, 3"}, "unit_axis: '1, 2, 3' has 3 for 2 sites"),
    "axes in words": ({"unit_axis": "first"}, "unit_axis"),
    "derivative": ({"derivative": "relu-magic"}, "'relu-magic'"),
    "another activation's": ({"derivative": "sigmoid-min", "k": None}, "'act'"),
}


@pytest.mark.parametrize("which", WRONG)
def test_errors_name_prescription_and_parameter_or_site(which: str) -> None:
    parameters, named = WRONG[which]
    plan = Plan(
        (
            entry(
                "artificial-derivative",
                "act",
                "::relu@0",
                derivative="relu-logistic",
                selective=False,
                k=3.5,
            ),
        )
    )
    raw = json.loads(render_plan(plan))
    edited = raw["plan"]["prescriptions"][0]["parameters"]
    edited.update(parameters)
    edited = {key: value for key, value in edited.items() if value is not None}
    raw["plan"]["prescriptions"][0]["parameters"] = edited
    model = mixed()
    with pytest.raises(PlanError) as caught:
        gradscope.apply(model, read_plan(json.dumps(raw), "plan.json"))
    assert "Prescription 1 (artificial-derivative)" in str(caught.value)
    assert named in str(caught.value)
    assert type(model) is Mixed


def test_what_is_no_module_is_refused() -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), (inputs(2),))
    with pytest.raises(PlanError, match=r"ExportedProgram \(its module\(\) is one\)"):
        gradscope.apply(program, Plan())  # type: ignore[arg-type]


# --- Proposing --------------------------------------------------------------------------------


def test_dead_calls_and_modules_are_treated_alike() -> None:
    model = mixed()
    findings = diagnosed(model)
    (dead,) = [finding for finding in findings if finding.code == "GS201"]
    assert {"act", "::relu@0"} <= set(dead.sites)
    plan = gradscope.prescribe(findings, model)
    everyone = [*plan.prescriptions, *(each for group in plan.alternatives for each in group)]
    mine = [each for each in everyone if each.remedy == "artificial-derivative"]
    assert not any(each.remedy == "artificial-derivative" for each in plan.refusals)
    first = mine[0]
    assert first.parameters["selective"] is True
    # Units of the convolution are counted by dimension 1, those of the layers by the last.
    assert first.parameters["unit_axis"] == "1, -1"
    assert set(first.sites) == {"act", "::relu"}
    assert any(each.parameters["selective"] is False for each in mine)
    assert any(each.remedy == "leaky-backward" for each in everyone)
    for each in mine:
        plain = model(inputs())
        with gradscope.apply(model, Plan((each,))):
            assert torch.equal(model(inputs()), plain)
            after = gradients(model)
        assert after["one.bias"][:6].all()


def test_single_calls_are_named_where_another_is_the_output() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 2)
            with torch.no_grad():
                self.one.bias.fill_(-50.0)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.two(torch.relu(self.one(x))))

    model = Ends()
    plan = gradscope.prescribe(diagnosed(model), model, only=("artificial-derivative",))
    assert {each.sites for each in plan.prescriptions} == {("::relu@0",)}


def test_collapsed_signals_are_refused_by_beta_too() -> None:
    finding = Finding("GS101", "vanishing-gradient", Severity.ERROR, (), "it is.", {}, "GS204")
    model = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2))
    profile = diagnosed(model).profile
    for name in ("artificial-derivative", "beta-derivative"):
        (refusal,) = registry.remedy(name).propose(finding, profile, model)
        assert "GS204" in refusal.reason
    (first, *_) = registry.remedy("beta-derivative").propose(
        replace(finding, cause=None), profile, model
    )
    assert isinstance(first, Prescription)
    assert first.sites == ("1",)
