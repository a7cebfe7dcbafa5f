"""Choosing: which guess comes first, by what is wrong, and what is tried together."""

from __future__ import annotations

import torch
from torch import nn

from gradscope import registry
from gradscope.choosing import pairs, ranked
from gradscope.invariants import check_invariants
from gradscope.patch import apply
from gradscope.prescribe import prescribe
from gradscope.records import Findings, Plan, Prescription, Value
from gradscope.rules.subjects import perceptron
from tests.gradscope.remedies.setting import entry, finding, inputs, profiled


def some(remedy: str, code: str, **parameters: Value) -> Prescription:
    found = entry(remedy, "1", **parameters)
    return Prescription(found.remedy, found.changes, found.sites, parameters, code, found.reason)


def findings(*codes: str, trained: bool = False, **causes: str) -> Findings:
    torch.manual_seed(0)
    model = perceptron(nn.ReLU, layers=2)
    if trained:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            x = inputs(20, 32, seed=0)
            nn.functional.cross_entropy(model(x), torch.arange(20) % 10).backward()
            optimizer.step()
    found = tuple(finding(code, cause=causes.get(code)) for code in codes)
    return Findings(profiled(model, 20, 32), found)


def order(candidates: list[Prescription], of: Findings) -> list[str]:
    return [candidate.remedy for candidate in ranked(candidates, of)]


def test_where_the_forward_carries_nothing_no_backward_remedy_comes_first() -> None:
    collapse = findings("GS204", "GS101", GS101="GS204")
    candidates = [
        some("artificial-derivative", "GS101"),
        some("optimizer-swap", "GS204"),
        some("norm-insertion", "GS204"),
    ]
    assert order(candidates, collapse) == [
        "norm-insertion",
        "optimizer-swap",
        "artificial-derivative",
    ]
    decay = [some(each.remedy, "GS101") for each in candidates]
    assert order(decay, findings("GS101"))[0] == "artificial-derivative"


def test_root_causes_come_first() -> None:
    found = findings("GS201", "GS101", GS101="GS201")
    candidates = [some("norm-insertion", "GS101"), some("re-initialise", "GS201")]
    assert order(candidates, found) == ["re-initialise", "norm-insertion"]


def test_what_keeps_the_function_comes_first_where_weights_are_trained() -> None:
    candidates = [
        some("norm-insertion", "GS204", layers="LayerNorm(64)"),
        some("skip-connection", "GS204", gate="zero"),
        some("optimizer-swap", "GS204", optimizer="adam"),
    ]
    fresh = order(candidates, findings("GS204"))
    assert fresh == ["norm-insertion", "skip-connection", "optimizer-swap"]
    trained = order(candidates, findings("GS204", trained=True))
    assert trained == ["skip-connection", "optimizer-swap", "norm-insertion"]


def test_kinds_alternate_before_variants_of_one_are_tried() -> None:
    candidates = [
        some("norm-insertion", "GS204", layers="BatchNorm1d(64)"),
        some("norm-insertion", "GS204", layers="LayerNorm(64)"),
        some("re-initialise", "GS204", scheme="he"),
    ]
    assert order(candidates, findings("GS204")) == [
        "norm-insertion",
        "re-initialise",
        "norm-insertion",
    ]


def test_pairs_are_of_two_kinds_and_few() -> None:
    candidates = [
        some("norm-insertion", "GS101"),
        some("artificial-derivative", "GS101"),
        some("re-initialise", "GS101"),
        some("optimizer-swap", "GS101"),
    ]
    found = [(one.remedy, other.remedy) for one, other in pairs(candidates)]
    assert found == [
        ("artificial-derivative", "re-initialise"),
        ("norm-insertion", "re-initialise"),
        ("artificial-derivative", "optimizer-swap"),
    ]
    assert pairs(candidates[:1]) == []


def test_pairs_of_a_real_plan_can_be_applied_and_undone() -> None:
    subject = registry.rule("GS101").bad()
    assert subject.build_data is not None
    torch.manual_seed(0)
    model = subject.build_model()
    x = next(iter(subject.build_data()))[0]
    found = findings("GS101")
    plan = prescribe(Findings(profiled(model, 16, 32), found.items), model, unsafe=True)
    together = [group for group in plan.alternatives if len(group) > 1]
    assert together
    before = model(x)
    for group in together:
        with apply(model, Plan(group)):
            assert model(x).isfinite().all()
        assert torch.equal(model(x), before)


def test_how_well_the_function_is_kept_is_said() -> None:
    torch.manual_seed(0)
    model = perceptron(nn.Sigmoid, layers=3, width=16)

    def step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x).square().mean()  # type: ignore[no-any-return]

    def said(**parameters: Value) -> dict[str, str]:
        plan = Plan((entry("norm-insertion", "1", "3", **parameters),))
        return {
            each.name: each.detail for each in check_invariants(model, plan, step, inputs(32, 32))
        }

    near = said(layers="BatchNorm1d(16)", start="identity")
    share = float(near["outputs (train) kept at the start"].split()[2])
    assert share < 1e-4
    far = said(layers="LayerNorm(16)", start="identity")
    assert share < float(far["outputs (train) kept at the start"].split()[2]) < 1
    assert set(said(layers="BatchNorm1d(16)")) == {"undo restores outputs, weights and modules"}
