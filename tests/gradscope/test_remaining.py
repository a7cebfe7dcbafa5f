"""What is still found after a repair."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from gradscope.records import Plan
from gradscope.remaining import profile_again
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.trial import Arm, Running
from tests.gradscope.remedies.setting import entry


def network() -> nn.Module:
    return perceptron(nn.ReLU, layers=2, width=16, features=8, classes=3)


def test_a_repaired_model_is_profiled_with_the_optimizer_of_the_repair() -> None:
    """Or a spike would be found in gradients that the repair clips."""
    plain = random_subject("noise", network, shape=(32, 8), classes=3)

    def batches() -> list[tuple[Tensor, Tensor]]:
        assert plain.build_data is not None
        return [
            (x * (1000 if number == 3 else 1), y)
            for number, (x, y) in enumerate(plain.build_data())
        ]

    subject = replace(
        plain,
        build_data=batches,
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    )
    plan = Plan((entry("gradient-clipping", method="norm", limit=1.0),))
    left_alone, clipped = (
        profile_again(subject, Running(subject, arm, 0), 6, 0).clipping
        for arm in (Arm("do nothing"), Arm("clip", plan))
    )
    assert min(left_alone) == 1.0
    assert clipped[3] < 0.1 < min(clipped[:3])
