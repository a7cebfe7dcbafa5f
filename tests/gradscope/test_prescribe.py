"""Prescription: what is offered, what is refused and why, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import gradscope
from gradscope import registry
from gradscope.errors import UsageError
from gradscope.patch import apply
from gradscope.prescribe import prescribe
from gradscope.profile import profile_steps
from gradscope.records import Findings, Plan
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def examined(subject: Subject) -> tuple[Findings, nn.Module]:
    assert subject.build_data is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = subject.build_model()
    profile = profile_steps(
        model, subject.build_data(), subject.step, build_optimizer=subject.build_optimizer
    )
    return gradscope.diagnose(profile), model


def of_rule(code: str) -> tuple[Findings, nn.Module]:
    return examined(registry.rule(code).bad())


def names(plan: Plan) -> list[str]:
    return [entry.remedy for group in (plan.prescriptions, *plan.alternatives) for entry in group]


def refused(plan: Plan) -> dict[str, str]:
    return {refusal.remedy: refusal.reason for refusal in plan.refusals}


def test_only_safe_remedies_without_unsafe_and_the_others_say_so() -> None:
    findings, model = of_rule("GS101")
    plan = prescribe(findings, model)
    assert set(names(plan)) == {"optimizer-swap", "layerwise-training"}
    assert names(plan)[0] == "optimizer-swap"
    assert "structure" in refused(plan)["norm-insertion"]
    assert "--unsafe" in refused(plan)["norm-insertion"]
    assert {"activation-swap", "re-initialise"} <= set(refused(plan))


def test_a_backward_remedy_is_refused_where_the_forward_has_collapsed() -> None:
    findings, model = of_rule("GS101")
    plan = prescribe(findings, model, unsafe=True)
    assert "artificial-derivative" not in names(plan)
    assert "GS204" in refused(plan)["artificial-derivative"]


def test_dead_units_get_the_artificial_derivative_first() -> None:
    findings, model = of_rule("GS201")
    plan = prescribe(findings, model, unsafe=True)
    assert names(plan)[0] == "artificial-derivative"
    assert plan.prescriptions[0].finding == "GS201"
    assert {"activation-swap", "norm-insertion", "re-initialise"} <= set(names(plan))


def test_no_candidate_is_offered_twice() -> None:
    for code in registry.rules():
        findings, model = of_rule(code)
        plan = prescribe(findings, model, unsafe=True)
        offered = [
            tuple((entry.remedy, entry.sites, *entry.parameters.items()) for entry in group)
            for group in (plan.prescriptions, *plan.alternatives)
            if group
        ]
        assert len(offered) == len(set(offered))
        assert len(set(plan.refusals)) == len(plan.refusals)


def test_every_candidate_can_be_applied() -> None:
    for code in registry.rules():
        findings, model = of_rule(code)
        plan = prescribe(findings, model, unsafe=True)
        for group in (plan.prescriptions, *plan.alternatives):
            with apply(model, Plan(group)):
                pass


def test_only_the_named_remedies_are_considered() -> None:
    findings, model = of_rule("GS101")
    plan = prescribe(findings, model, unsafe=True, only=("norm-insertion",))
    assert set(names(plan)) == {"norm-insertion"}
    assert set(refused(plan)) <= {"norm-insertion"}
    with pytest.raises(UsageError, match="no remedy 'magic'"):
        prescribe(findings, model, only=("magic",))


def test_no_findings_no_plan() -> None:
    findings, model = examined(registry.rule("GS101").good())
    assert prescribe(findings, model, unsafe=True) == Plan()


def test_prescribing_leaves_model_and_random_numbers_alone() -> None:
    findings, model = of_rule("GS101")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    shape, state = repr(model), torch.get_rng_state()
    prescribe(findings, model, unsafe=True)
    assert repr(model) == shape
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def deep_sigmoid(activation: type[nn.Module] = nn.Sigmoid) -> nn.Sequential:
    return perceptron(
        activation, layers=8, initialise=lambda layer: nn.init.normal_(layer.weight, std=0.05)
    )


def shared_sigmoid() -> nn.Module:
    model = deep_sigmoid()
    for index, module in enumerate(model):
        if isinstance(module, nn.Sigmoid):
            model[index] = model[1]
    return model


def test_a_shared_activation_is_swapped_at_every_use_or_not_at_all() -> None:
    findings, model = examined(random_subject("shared", shared_sigmoid))
    plan = prescribe(findings, model, unsafe=True, only=("activation-swap",))
    for group in (plan.prescriptions, *plan.alternatives):
        with apply(model, Plan(group)):
            assert sum(isinstance(module, nn.Sigmoid) for module in model) in (0, 8)


def test_norm_insertion_refuses_a_shared_activation() -> None:
    findings, model = examined(random_subject("shared", shared_sigmoid))
    plan = prescribe(findings, model, unsafe=True, only=("norm-insertion",))
    assert names(plan) == []
    assert "more than once" in refused(plan)["norm-insertion"]


def test_frozen_weights_are_not_drawn_anew() -> None:
    """Frozen weights are a pretrained trunk's; training cannot bring back what they knew."""

    def build() -> nn.Module:
        model = deep_sigmoid()
        model[0].requires_grad_(False)
        return model

    findings, model = examined(random_subject("frozen", build))
    plan = prescribe(findings, model, unsafe=True, only=("re-initialise",))
    assert set(names(plan)) == {"re-initialise"}
    assert all("0" not in group[0].sites for group in (plan.prescriptions, *plan.alternatives))


def test_adam_is_not_offered_to_adam() -> None:
    subject = random_subject(
        "Adam", deep_sigmoid, build_optimizer=lambda entries: torch.optim.Adam(entries, lr=1e-3)
    )
    findings, model = examined(subject)
    assert findings.codes
    plan = prescribe(findings, model, unsafe=True)
    assert "optimizer-swap" not in names(plan)
    assert "Adam already" in refused(plan)["optimizer-swap"]


def test_small_batches_get_no_batch_norm() -> None:
    findings, model = examined(random_subject("small batches", deep_sigmoid, shape=(4, 32)))
    plan = prescribe(findings, model, unsafe=True, only=("norm-insertion",))
    layers = [str(entry.parameters["layers"]) for entry in plan.prescriptions]
    assert layers == ["LayerNorm(64)"]
    assert "at least 8" in refused(plan)["norm-insertion"]


def test_the_models_own_output_keeps_its_activation() -> None:
    def build() -> nn.Module:
        return nn.Sequential(*deep_sigmoid()[:-1])

    findings, model = examined(random_subject("sigmoid output", build))
    plan = prescribe(findings, model, unsafe=True)
    for group in (plan.prescriptions, *plan.alternatives):
        if group[0].remedy in ("activation-swap", "norm-insertion"):
            assert "15" not in group[0].sites
