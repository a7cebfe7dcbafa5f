"""Selection: what is preferred to what, and when another learning rate becomes the repair."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradscope
from gradscope import selection
from gradscope.records import DO_NOTHING, Findings, Plan, Prescription
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.selection import Selected, select
from gradscope.subject import Subject
from gradscope.trial import Arm, arm_name, other_rate
from tests.gradscope.remedies.setting import entry, profiled

HE = entry("re-initialise", "0", scheme="he")


def hasty() -> Subject:
    """A model that learns; ten times faster at ten times the learning rate."""
    return random_subject(
        "a healthy model",
        lambda: perceptron(nn.ReLU, layers=1, width=16),
        shape=(64, 32),
        classes=3,
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    )


def selected(*plans: tuple[Prescription, ...], may_add_rate: bool) -> Selected:
    subject = hasty()
    findings = Findings(profiled(subject.build_model(), 64, 32), ())
    arms = [Arm(arm_name(plan), Plan(plan)) for plan in plans]
    rates = [other_rate(3.0), other_rate(10.0)]
    return select(
        subject, findings, arms, rates, 60, seed=0, start=1.1, sign=-1.0, may_add_rate=may_add_rate
    )


def test_another_learning_rate_that_does_the_same_becomes_the_repair() -> None:
    found = selected((HE,), may_add_rate=True)
    assert found.winner is not None
    *_, rate = found.winner.plan.prescriptions
    assert (rate.remedy, rate.parameters, rate.finding) == (
        "learning-rate",
        {"factor": 10.0},
        HE.finding,
    )
    # Whoever applies the plan trains at that rate, and it is not compared with itself.
    model = hasty().build_model()
    patch = gradscope.apply(model, found.winner.plan)
    optimizer = patch.build_optimizer(model.parameters(), hasty().build_optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    if len(found.winner.plan.prescriptions) == 1:
        assert found.rate.name == f"{DO_NOTHING}, learning rate x3"


def test_a_plan_that_is_to_be_proved_is_left_as_it_is() -> None:
    found = selected((HE,), may_add_rate=False)
    assert found.winner is not None
    assert found.winner.plan.prescriptions == (HE,)
    assert found.rate.name == f"{DO_NOTHING}, learning rate x10"


def test_what_sets_a_learning_rate_itself_is_not_given_another() -> None:
    rate = entry("learning-rate", factor=30.0)
    found = selected((rate,), may_add_rate=True)
    assert found.winner is not None
    assert found.winner.plan.prescriptions == (rate,)


def test_what_cannot_be_run_is_refused_and_the_rest_goes_on() -> None:
    impossible = entry("re-initialise", "1", scheme="he")
    found = selected((impossible,), (HE,), may_add_rate=False)
    assert found.winner is not None
    assert found.winner.plan.prescriptions == (HE,)
    assert found.others == ()
    [(arm, reason)] = found.refused
    assert arm.plan.prescriptions == (impossible,)
    assert "it could not be run" in reason


@pytest.mark.parametrize(
    ("dirty", "winner"), [((), "large"), (("large",), "close"), (("large", "close"), "large")]
)
def test_of_those_close_to_the_best_a_clean_one_is_chosen(
    dirty: tuple[str, ...], winner: str
) -> None:
    scores = {Arm("small"): 1.0, Arm("close"): 6.0, Arm("large"): 10.0}
    chosen = selection._best(
        list(scores), scores.__getitem__, 1.0, lambda arm: arm.name not in dirty
    )
    assert chosen.name == winner


def test_what_does_no_better_than_a_control_is_not_looked_at_twice() -> None:
    scores = {Arm("one"): 1.0, Arm("other"): 2.0}

    def clean(arm: Arm) -> bool:
        raise AssertionError(arm)

    assert selection._best(list(scores), scores.__getitem__, 5.0, clean).name == "other"
