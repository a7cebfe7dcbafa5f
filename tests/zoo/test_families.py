"""What is measured of every family of models, against an independent implementation."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.profile import profile_steps
from gradscope.records import Profile
from tests.zoo.comparing import compare
from tests.zoo.families import FAMILIES, STEPS, Family
from tests.zoo.reference import Axes, Reference, call_model, measure

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
)


def family_of(name: str) -> Family:
    family = FAMILIES[name]
    if family.needs is not None:
        pytest.importorskip(family.needs, reason=f"{name} is built by {family.needs}")
    return family


def profiled(family: Family, model: nn.Module) -> Profile:
    options: dict[str, Any] = {"steps": STEPS, "attention": family.attention}
    if family.step is not None:
        return profile_steps(
            model, family.batches(), family.step, build_optimizer=family.optimizer, **options
        )
    return gradscope.profile(
        model, family.batches(), family.loss, optimizer=family.optimizer, **options
    )


def expected_of(family: Family) -> Reference:
    return measure(
        family.build(),
        family.batches(),
        family.step or (lambda model, batch: family.loss(call_model(model, batch), batch)),
        axes=Axes(family.units_at_1, family.samples_at_1),
        steps=STEPS,
        build_optimizer=family.optimizer,
        reduction=family.reduction,
        fused=family.attention,
    )


def traces(model: nn.Module) -> Callable[[], list[str]]:
    """Notes all that a profile must leave as it is; returns what tells what has changed."""

    def state() -> dict[str, Any]:
        found: dict[str, Any] = {
            "random numbers": (
                torch.get_rng_state().tolist(),
                random.getstate(),
                repr(np.random.get_state()),  # noqa: NPY002
            ),
            "functions": (nn.Module.__call__, nn.functional.relu, torch.relu, torch.Tensor.relu),
            "gradient mode": torch.is_grad_enabled(),
        }
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            bits = value.detach().contiguous()
            bits = torch.view_as_real(bits) if bits.is_complex() else bits
            found[name] = (id(value), value.requires_grad, value.grad, bits.numpy().tobytes())
        for name, module in model.named_modules():
            hooks = [len(getattr(module, kind, ())) for kind in HOOKS]
            found[f"module {name}"] = (module.training, hooks, sorted(vars(module)))
        return found

    before = state()

    def changed() -> list[str]:
        after = state()
        assert before.keys() == after.keys()
        return [key for key in before if before[key] != after[key]]

    return changed


@dataclass(frozen=True)
class Measured:
    """A family's model profiled twice, what that changed, and what was to be expected."""

    family: Family
    profile: Profile
    again: Profile
    changed: list[str]
    reference: Reference


@pytest.fixture(scope="module", params=FAMILIES)
def measured(request: pytest.FixtureRequest) -> Measured:
    family = family_of(request.param)
    model = family.build().eval()
    changed = traces(model)
    first = profiled(family, model)
    return Measured(family, first, profiled(family, model), changed(), expected_of(family))


def test_a_family_is_measured_as_the_reference_does(
    measured: Measured, record_property: Callable[[str, object], None]
) -> None:
    profile, reference, family = measured.profile, measured.reference, measured.family
    held = compare(profile, reference, family)
    sites = len(profile.sites)
    record_property("zoo", [family.name, sites, held.compared, held.largest, held.where])

    assert not held.faults, "\n".join(held.faults[:40])
    assert set(family.shows) <= set(reference.sites)
    for word in family.unseen:
        assert any(word in entry.what or word in entry.reason for entry in profile.skipped)


def test_a_family_is_left_alone(measured: Measured) -> None:
    assert measured.changed == []


def test_a_family_is_measured_the_same_again(measured: Measured) -> None:
    assert repr(measured.again) == repr(measured.profile)
