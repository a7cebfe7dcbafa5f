"""Prescriptions, models and batches for the tests of single remedies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradscope import registry
from gradscope.diagnose import diagnose
from gradscope.profile import profile_steps
from gradscope.records import Finding, Prescription, Profile, Refusal, Severity, Value
from gradscope.subject import Subject


def entry(remedy: str, *sites: str, **parameters: Value) -> Prescription:
    changes = registry.remedy(remedy).changes
    return Prescription(remedy, changes, sites, parameters, "GS101", "a test")


def finding(code: str, *sites: str, cause: str | None = None) -> Finding:
    return Finding(code, registry.rule(code).name, Severity.ERROR, sites, "it is.", {}, cause)


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def profiled(model: nn.Module, *shape: int, lr: float = 0.01, steps: int = 2) -> Profile:
    """A few steps of classification on random inputs."""

    def step(model: nn.Module, batch: Tensor) -> Tensor:
        output = model(batch).flatten(1)
        return nn.functional.cross_entropy(output, torch.arange(len(batch)) % output.shape[1])

    return profile_steps(
        model,
        [inputs(*shape, seed=seed) for seed in range(steps)],
        step,
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
        steps=steps,
    )


def proposed(
    remedy: str, code: str, model: nn.Module, profile: Profile, *sites: str
) -> list[Prescription]:
    answers = registry.remedy(remedy).propose(finding(code, *sites), profile, model)
    return [each for each in answers if isinstance(each, Prescription)]


def refused(remedy: str, code: str, model: nn.Module, profile: Profile, *sites: str) -> str:
    """All reasons for which a remedy does not apply; the test fails where there is none."""
    answers = registry.remedy(remedy).propose(finding(code, *sites), profile, model)
    reasons = [each.reason for each in answers if isinstance(each, Refusal)]
    if not reasons:
        pytest.fail(f"{remedy} refuses nothing")
    return "; ".join(reasons)


def of_rule(code: str) -> tuple[Finding, Profile, nn.Module]:
    """A rule's own bad subject, its profile and its finding."""
    subject: Subject = registry.rule(code).bad()
    assert subject.build_data is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = subject.build_model()
    profile = profile_steps(
        model,
        subject.build_data(),
        subject.step,
        build_optimizer=subject.build_optimizer,
        steps=max(8, registry.rule(code).steps),
    )
    found = {each.code: each for each in diagnose(profile)}
    return found[code], profile, model
