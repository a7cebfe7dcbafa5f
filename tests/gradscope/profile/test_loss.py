"""What a profile tells of the loss function that a step calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope
from gradscope.records import LossCall

LABELS = torch.tensor([0, 1, 1, 2, 2, 2, 2, 2])


def call_of(
    loss: Callable[[Any, Any], Tensor], targets: Tensor, *after: nn.Module, classes: int = 4
) -> LossCall | None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, classes), *after)
    batch = torch.randn(8, 3), targets
    profile = gradscope.profile(model, [batch], lambda output, batch: loss(output, batch[1]))
    return profile.loss_call


def entropy(*shares: float) -> float:
    return -sum(share * math.log(share) for share in shares)


def test_cross_entropy_is_held_against_the_classes_and_against_the_labels() -> None:
    call = call_of(functional.cross_entropy, LABELS)
    assert call is not None
    assert (call.function, call.behind, call.outputs) == ("cross_entropy", "", 4)
    assert (call.target_low, call.target_high, call.targets_vary) == (0, 2, True)
    assert call.input_low < 0 < call.input_high
    assert call.guess == pytest.approx(math.log(4))
    assert call.constant == (pytest.approx(entropy(1 / 8, 2 / 8, 5 / 8)),) * 8


def test_the_best_constant_prediction_is_the_one_that_the_trivial_loss_names() -> None:
    shares = torch.bincount(LABELS, minlength=4) / 8
    constant = functional.cross_entropy(shares.log().expand(8, 4), LABELS)
    call = call_of(functional.cross_entropy, LABELS)
    assert call is not None
    assert call.constant[0] == pytest.approx(float(constant))


@pytest.mark.parametrize(
    ("after", "behind"),
    [
        (nn.Softmax(dim=1), "softmax"),
        (nn.LogSoftmax(dim=1), "log_softmax"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Tanh(), "tanh"),
        (nn.ReLU(), "relu"),
        (nn.ReLU(inplace=True), "relu"),
        (nn.LeakyReLU(), ""),
    ],
)
def test_what_bounds_the_input_is_named(after: nn.Module, behind: str) -> None:
    call = call_of(functional.cross_entropy, LABELS, after)
    assert call is not None
    assert call.behind == behind
    reshaped = call_of(functional.cross_entropy, LABELS, after, nn.Flatten(), nn.Identity())
    assert reshaped is not None
    assert reshaped.behind == behind


def test_ignored_labels_count_for_nothing() -> None:
    call = call_of(functional.cross_entropy, torch.tensor([0, 1, -100, -100, 1, 0, 0, 1]))
    assert call is not None
    assert (call.target_low, call.target_high) == (0, 1)
    assert call.constant[0] == pytest.approx(math.log(2))


def test_regression_is_held_against_the_mean() -> None:
    targets = torch.randn(8, 4) * 3 + 5
    call = call_of(nn.MSELoss(), targets)
    assert call is not None
    constant = functional.mse_loss(targets.mean(dim=0).expand(8, 4), targets)
    assert call.constant[0] == pytest.approx(float(constant), rel=1e-6)
    assert math.isnan(call.guess)
    absolute = call_of(functional.l1_loss, targets)
    assert absolute is not None
    assert math.isnan(absolute.constant[0])


def test_yes_or_no_is_held_against_the_shares_of_yes() -> None:
    targets = torch.tensor([[1.0, 0, 0, 0], [1.0, 1, 0, 0], [0.0, 1, 1, 0], [0.0, 1, 0, 0]] * 2)
    call = call_of(functional.binary_cross_entropy_with_logits, targets)
    assert call is not None
    assert call.guess == pytest.approx(math.log(2))
    expected = (entropy(0.5, 0.5) + 2 * entropy(0.75, 0.25)) / 4
    assert call.constant[0] == pytest.approx(expected)


def test_yes_that_weighs_more_is_held_against_the_weighted_shares() -> None:
    targets = torch.tensor([[1.0], [0.0], [0.0], [0.0]] * 2)
    weighted = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
    call = call_of(lambda output, y: weighted(output[:, :1], y), targets)
    assert call is not None
    best = weighted(torch.zeros(8, 1), targets)  # three of six weights say yes
    assert call.constant[0] == pytest.approx(float(best))


def test_where_yes_has_no_weight_and_nothing_says_no_the_constant_is_unknown() -> None:
    ignored = nn.BCEWithLogitsLoss(pos_weight=torch.zeros(1))
    call = call_of(lambda output, y: ignored(output[:, :1], y), torch.ones(8, 1))
    assert call is not None
    assert math.isnan(call.constant[0])


def test_what_classes_add_up_to() -> None:
    assert math.isnan(_totals("cross_entropy", lambda output: output)[0])
    right = _totals("nll_loss", lambda output: output.log_softmax(1))
    assert right == (pytest.approx(1), pytest.approx(1))
    assert _totals("nll_loss", lambda output: output.log_softmax(0))[1] < 0.9
    assert _totals("cross_entropy", lambda output: output.softmax(1)) == (
        pytest.approx(1),
        pytest.approx(1),
    )


def _totals(function: str, made: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    call = call_of(lambda output, y: getattr(functional, function)(made(output), y), LABELS)
    assert call is not None
    return call.total_low, call.total_high


def test_a_part_of_a_larger_loss_is_held_against_nothing() -> None:
    call = call_of(
        lambda output, y: functional.cross_entropy(output, y) + output.sum() ** 2, LABELS
    )
    assert call is not None
    assert call.function == "cross_entropy"
    assert math.isnan(call.guess)
    assert all(math.isnan(value) for value in call.constant)


def test_class_probabilities_smoothing_and_sums() -> None:
    soft = call_of(functional.cross_entropy, functional.one_hot(LABELS, 4).float())
    assert soft is not None
    assert soft.constant[0] == pytest.approx(entropy(1 / 8, 2 / 8, 5 / 8))
    smooth = call_of(nn.CrossEntropyLoss(label_smoothing=0.1), LABELS)
    assert smooth is not None
    assert smooth.guess == pytest.approx(math.log(4))
    assert math.isnan(smooth.constant[0])
    summed = call_of(nn.CrossEntropyLoss(reduction="sum"), LABELS)
    assert summed is not None
    assert math.isnan(summed.guess)


def test_a_loss_of_ones_own_is_no_call() -> None:
    assert call_of(lambda output, y: (output[:, 0] - y).square().mean(), LABELS) is None


def test_nan_has_no_range_and_does_no_harm() -> None:
    call = call_of(functional.cross_entropy, LABELS, NaN())
    assert call is not None
    assert math.isnan(call.input_low)


class NaN(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * math.nan
