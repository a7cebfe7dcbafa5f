"""Which of several guesses is taken, where more than one passes or none is perfect."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from gradscope.batches import tensors_in
from gradscope.inputs import inferred_batches


class SmallFailsInTraining(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[-1] < 64:
            raise ValueError("too small for the auxiliary head")
        return super().forward(x).mean((2, 3))


class Similarities(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        directions = nn.functional.normalize(super().forward(x))
        return directions @ directions.T


class Tokens(nn.Module):
    """A table of four positions beside the one of tokens, which is never looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.positions = (
            nn.Embedding(50, 8),
            nn.Linear(8, 50),
            nn.Embedding(4, 8),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.table(x))  # type: ignore[no-any-return]


def first(model: nn.Module) -> Any:
    return next(iter(inferred_batches(model)))


def test_a_model_that_fails_only_in_training_is_not_taken() -> None:
    assert first(SmallFailsInTraining(3, 8, 3)).shape == (32, 3, 64, 64)


def test_a_model_that_mixes_its_samples_on_purpose_is_taken() -> None:
    assert first(Similarities(5, 4)).shape == (32, 5)


@pytest.mark.gpu
def test_on_the_models_device() -> None:
    assert all(tensor.is_cuda for tensor in tensors_in(first(Tokens().cuda())))
