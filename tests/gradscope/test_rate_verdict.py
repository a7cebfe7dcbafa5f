"""A repair that is nothing but a learning rate need not beat other learning rates."""

from __future__ import annotations

import torch
from torch import nn

from gradscope import registry
from gradscope.metric import evaluate
from gradscope.records import Findings, Plan, Status
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.verify import verify
from tests.gradscope.remedies.setting import entry, profiled


def test_a_learning_rate_can_be_the_repair() -> None:
    subject = random_subject(
        "far too careful",
        lambda: perceptron(nn.ReLU, layers=1),
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-6),
    )
    assert evaluate(subject, subject.build_model())[0] == "loss"
    model = subject.build_model()
    plan = Plan((entry("learning-rate", factor=1e5),))
    result = verify(subject, plan, Findings(profiled(model, 16, 32), ()), seeds=5, budget=10)
    assert result.verdict.status is Status.FIXED
    assert "other learning rates" not in result.verdict.reason
    assert result.plan.prescriptions == plan.prescriptions


def test_only_the_learning_rate_itself_is_excused() -> None:
    excused = [name for name, each in registry.remedies().items() if not each.rivals_rates]
    assert excused == ["learning-rate"]
