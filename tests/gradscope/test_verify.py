"""Verification: every verdict is reached by a small real subject, and each can be had again."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope import registry
from gradscope import verdict as verdict_module
from gradscope.errors import ModelError, UsageError
from gradscope.pipeline import repair
from gradscope.records import Change, Findings, Invariant, Plan, Prescription, Status, Verdict
from gradscope.remedies import Remedy, Undo
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject
from gradscope.trial import Running
from gradscope.verdict import DO_NOTHING
from gradscope.verify import Verified, verify

STEPS = 40
# The attribute of the package is the function of that name.
MODULE = importlib.import_module("gradscope.verify")


@pytest.fixture(autouse=True)
def _fixed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of steps is the only thing that the clock decides where seeds are given."""
    monkeypatch.setattr(MODULE, "_rounded", lambda steps: STEPS)


def deep_sigmoid() -> nn.Sequential:
    return perceptron(
        nn.Sigmoid,
        layers=5,
        width=16,
        features=8,
        classes=3,
        initialise=lambda layer: nn.init.normal_(layer.weight, std=0.05),
    )


def sick(
    build: Callable[[], nn.Module] = deep_sigmoid,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> Subject:
    return random_subject(
        "a sick model", build, shape=(32, 8), classes=3, build_optimizer=optimizer
    )


@cache
def sick_findings() -> Findings:
    return found(sick())


def found(subject: Subject) -> Findings:
    assert subject.build_data is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = subject.build_model()
    profile = gradscope.profile(
        model,
        subject.build_data(),
        lambda output, batch: nn.functional.cross_entropy(output, batch[1]),
    )
    findings = gradscope.diagnose(profile)
    assert findings
    return findings


def one(remedy: str, *sites: str, **parameters: Any) -> Prescription:
    return Prescription(
        remedy, registry.remedy(remedy).changes, sites, parameters, "GS204", "a test"
    )


NORM = one("norm-insertion", "1", "3", "5", "7", "9", layers="BatchNorm1d(16)")


def verified(subject: Subject, *plan: Prescription, **options: Any) -> Verified:
    return verify(subject, Plan(plan), sick_findings(), seeds=5, **options)


def consistent(verdict: Verdict) -> None:
    """What holds of every verdict that trials were run for."""
    matched = [trial for trial in verdict.trials if trial.matched]
    assert verdict.seeds == tuple(dict.fromkeys(trial.seed for trial in matched))
    assert not set(verdict.seeds) & {trial.seed for trial in verdict.trials if not trial.matched}
    assert len(matched) % len(verdict.seeds) == 0
    nothing = [trial.metric for trial in matched if trial.arm == DO_NOTHING]
    assert len(nothing) == len(verdict.seeds)
    assert verdict.before is not None
    if all(map(math.isfinite, nothing)):
        assert verdict.before == pytest.approx(sum(nothing) / len(nothing))
    assert any("learning rate" in name for name in verdict.baselines)
    assert verdict.interval is not None
    assert verdict.after is not None
    low, high = verdict.interval
    assert low - 1e-12 <= verdict.after - verdict.before <= high + 1e-12
    assert 0 <= (verdict.p_value if verdict.p_value is not None else -1) <= 1
    assert verdict.invariants
    assert verdict.reason.endswith(".")


# --- The verdicts -----------------------------------------------------------------------------


def test_fixed() -> None:
    result = verified(sick(), NORM)
    verdict = result.verdict
    consistent(verdict)
    assert verdict.status is Status.FIXED
    assert (verdict.metric, verdict.higher_is_better) == ("loss", False)
    assert verdict.after is not None
    assert verdict.before is not None
    assert verdict.after < verdict.before
    assert verdict.p_value is not None
    assert verdict.p_value < 0.05
    assert verdict.remaining == ()
    assert (len(verdict.seeds), verdict.failed_after) == (5, 0.0)
    assert result.plan.prescriptions == (NORM,)
    assert result.model is not None
    assert any(isinstance(module, nn.BatchNorm1d) for module in result.model.modules())


def test_improved_where_a_larger_learning_rate_does_the_same() -> None:
    """Adam with a small step beats SGD with a tiny one; ten times the tiny one beats both."""
    subject = sick(
        lambda: perceptron(nn.ReLU, layers=1, width=16, features=8, classes=3),
        lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    )
    profile = sick_findings().profile
    findings = Findings(profile, sick_findings().items)
    plan = Plan((one("optimizer-swap", optimizer="adam", lr=1e-3),))
    result = verify(subject, plan, findings, seeds=5)
    consistent(result.verdict)
    assert result.verdict.status is Status.IMPROVED
    assert "learning rate x10" in result.verdict.reason
    assert result.plan.prescriptions == plan.prescriptions
    assert result.model is not None


def test_improved_where_the_finding_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_module, "remaining", lambda *_: ("GS204",))
    result = verified(sick(), NORM)
    assert result.verdict.status is Status.IMPROVED
    assert "GS204 is found after the repair" in result.verdict.reason


def test_no_effect_where_one_layer_of_a_collapsed_stack_is_drawn_anew() -> None:
    entry = one("re-initialise", "0", scheme="xavier")
    result = verified(sick(), entry)
    consistent(result.verdict)
    assert result.verdict.status is Status.NO_EFFECT
    assert result.model is None
    assert result.plan.prescriptions == ()
    assert result.plan.alternatives == ((entry,),)


def test_a_backward_remedy_does_not_help_where_the_forward_has_collapsed() -> None:
    entry = one("artificial-derivative", "1", "3", "5", "7", "9", derivative="sigmoid-min")
    result = verified(sick(), entry)
    consistent(result.verdict)
    assert result.verdict.status in (Status.NO_EFFECT, Status.WORSE_UNDONE)
    assert len(result.verdict.invariants) == 4
    assert all(invariant.held for invariant in result.verdict.invariants)
    assert (turned := result.verdict.bias) is not None
    assert turned.parameters[0].ratio > 10 > turned.parameters[-1].ratio


def test_worse_is_undone() -> None:
    subject = sick(lambda: perceptron(nn.ReLU, layers=2, width=16, features=8, classes=3))
    ruin = one("optimizer-swap", optimizer="adam", lr=1e-9)
    result = verify(subject, Plan((ruin,)), sick_findings(), seeds=5)
    consistent(result.verdict)
    assert result.verdict.status is Status.WORSE_UNDONE
    assert result.model is None
    assert result.plan.prescriptions == ()
    assert "worse" in result.verdict.reason


def test_a_broken_invariant_is_undone_however_well_it_learns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        verdict_module, "check_invariants", lambda *_: (Invariant("outputs bit-equal", False),)
    )
    result = verified(sick(), NORM)
    assert result.verdict.status is Status.WORSE_UNDONE
    assert "outputs bit-equal does not hold" in result.verdict.reason
    assert result.model is None


@pytest.mark.parametrize(
    "change", [{"build_data": None}, {"synthetic": True}], ids=["no data", "made-up data"]
)
def test_unverified_without_data(change: dict[str, Any]) -> None:
    findings = sick_findings()
    result = verify(replace(sick(), **change), Plan((NORM,)), findings)
    assert result.verdict.status is Status.UNVERIFIED
    assert result.verdict.trials == ()
    assert result.plan.prescriptions == (NORM,)
    assert result.model is None


def test_nothing_to_fix() -> None:
    report = gradscope.fix(registry.rule("GS201").good())
    assert report.verdict is not None
    assert report.verdict.status is Status.NOTHING_TO_FIX
    assert report.findings == ()


# --- Fairness ---------------------------------------------------------------------------------


def test_doing_nothing_does_not_differ_from_itself() -> None:
    result = verify(sick(), Plan(), sick_findings(), seeds=5)
    assert result.verdict.status is Status.NO_EFFECT
    assert result.verdict.p_value == 1.0
    assert result.verdict.before == result.verdict.after
    assert result.verdict.interval == (0.0, 0.0)
    assert result.verdict.effect_size == 0.0


def test_a_fixed_seed_gives_the_same_trials_again() -> None:
    first, second = (verified(sick(), NORM, budget=budget).verdict for budget in (50.0, 90.0))
    assert first.trials == second.trials
    assert (first.p_value, first.interval) == (second.p_value, second.interval)
    other = verified(sick(), NORM, seed=100).verdict
    assert other.seeds[0] == first.seeds[0] + 100
    assert other.trials != first.trials


def test_the_seed_of_selection_never_judges_and_losers_are_kept_in_the_record() -> None:
    swap = one("activation-swap", "1", "3", "5", "7", "9", activation="tanh")
    derivative = one("artificial-derivative", "1", "3", derivative="sigmoid-min")
    plan = Plan((derivative,), ((swap,), (NORM,)))
    result = verify(sick(), plan, sick_findings(), seeds=5)
    consistent(result.verdict)
    arms = {trial.arm for trial in result.verdict.trials if not trial.matched}
    assert len(arms) == 7, "three candidates, three learning rates, and doing nothing"
    assert len(result.verdict.baselines) == 2
    assert result.plan.prescriptions != (derivative,)
    assert (derivative,) in result.plan.alternatives


def test_candidates_of_one_remedy_at_different_sites_are_kept_apart() -> None:
    plan = Plan(
        (one("activation-swap", "1", activation="relu"),),
        ((one("activation-swap", "3", activation="relu"),),),
    )
    consistent(verify(sick(), plan, sick_findings(), seeds=5).verdict)


def test_more_seeds_are_as_many_as_asked_for() -> None:
    verdict = verify(sick(), Plan((NORM,)), sick_findings(), seeds=7).verdict
    assert len(verdict.seeds) == 7


def test_without_seeds_the_budget_gives_five_at_least() -> None:
    verdict = verify(sick(), Plan((NORM,)), sick_findings(), budget=0.01).verdict
    assert len(verdict.seeds) == 5


def test_runs_that_diverge_count_as_failed() -> None:
    ruin = one("optimizer-swap", optimizer="adam", lr=1e30)
    subject = sick(lambda: perceptron(nn.ReLU, layers=2, width=16, features=8, classes=3))
    verdict = verify(subject, Plan((ruin,)), sick_findings(), seeds=5).verdict
    consistent(verdict)
    assert verdict.failed_after == 1.0
    assert verdict.failed_before == 0.0
    assert verdict.status is Status.WORSE_UNDONE


# --- Refusals and traces ----------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [4, 1, 0, -3])
def test_fewer_than_five_seeds_are_refused(seeds: int) -> None:
    with pytest.raises(UsageError, match=f"--seeds is {seeds}; at least 5"):
        verify(sick(), Plan((NORM,)), sick_findings(), seeds=seeds)


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan])
def test_a_budget_that_is_no_time_is_refused(budget: float) -> None:
    with pytest.raises(UsageError, match=r"--budget is .* must be positive"):
        verify(sick(), Plan((NORM,)), sick_findings(), budget=budget)


def test_nonsense_is_refused_also_where_nothing_is_to_fix() -> None:
    healthy = registry.rule("GS201").good()
    for options in ({"seeds": 2}, {"budget": -1.0}, {"only": ("magic",)}):
        with pytest.raises(UsageError):
            gradscope.fix(healthy, **options)  # type: ignore[arg-type]


def random_state() -> list[bytes]:
    return [
        torch.get_rng_state().numpy().tobytes(),
        repr(random.getstate()).encode(),
        repr(np.random.get_state()).encode(),  # noqa: NPY002
    ]


def test_verification_leaves_the_random_numbers_alone() -> None:
    findings, before = sick_findings(), random_state()
    verify(sick(), Plan((NORM,)), findings, seeds=5)
    assert random_state() == before


class Fails(Remedy):
    """Fails when it is applied for the n-th time."""

    name = "fails"
    changes = (Change.STRUCTURE,)
    treats = ("GS204",)

    def __init__(self, at: int) -> None:
        self.left = at

    def propose(self, *_: Any) -> list[Any]:
        return []

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        self.left -= 1
        if not self.left:
            raise RuntimeError("in the middle")
        return lambda: None


@pytest.mark.parametrize("at", [1, 2, 4, 8])
def test_an_exception_in_the_middle_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    live = deep_sigmoid().eval()
    live[0].weight.grad = torch.ones_like(live[0].weight)  # type: ignore[arg-type, union-attr]
    batches = [(torch.randn(32, 8), torch.randint(0, 3, (32,))) for _ in range(10)]

    def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(output, batch[1])

    subject = Subject.of(live, batches, loss)
    weights = {key: value.clone() for key, value in live.state_dict().items()}
    findings = sick_findings()
    remedies = {**registry.remedies(), "fails": Fails(at)}
    monkeypatch.setattr(registry, "remedies", lambda: remedies)
    before, copies = random_state(), [tuple(tensor.clone() for tensor in pair) for pair in batches]
    plan = Plan((NORM, Prescription("fails", (Change.STRUCTURE,), ("0",), {}, "GS204", "")))
    with pytest.raises(RuntimeError, match="in the middle"):
        verify(subject, plan, findings, seeds=5)
    assert random_state() == before
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, weights[key]) for key, value in live.state_dict().items())
    assert not any(module.training for module in live.modules())
    assert not any(module._forward_hooks or module._backward_hooks for module in live.modules())
    assert torch.equal(live[0].weight.grad, torch.ones(16, 8))  # type: ignore[arg-type, union-attr]
    for pair, copy in zip(batches, copies, strict=True):
        assert all(map(torch.equal, pair, copy))


def test_progress_goes_from_nought_to_one() -> None:
    said: list[tuple[str, float]] = []
    repair(
        sick(),
        unsafe=True,
        seeds=5,
        only=("norm-insertion",),
        progress=lambda what, share: said.append((what, share)),
    )
    assert all(0 <= share <= 1 for _, share in said)
    assert said[-1][1] == 1.0
    assert any(what.startswith("trying norm-insertion") for what, _ in said)


def test_learning_rates_that_fail_are_no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of their runs fails once, and goes on if it is asked to."""
    plain, failed = Running.advance, list[Running]()

    def advance(self: Running, steps: int) -> None:
        if "learning rate" in self.arm.name and self not in failed:
            failed.append(self)
            raise ModelError("not at this learning rate")
        plain(self, steps)

    monkeypatch.setattr(Running, "advance", advance)
    verdict = verify(sick(), Plan((NORM,)), sick_findings(), seeds=5).verdict
    consistent(verdict)
    rates = [one for one in verdict.trials if one.matched and "learning rate" in one.arm]
    assert [math.isnan(trial.metric) for trial in rates] == [True] * 5
