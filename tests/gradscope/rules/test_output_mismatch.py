"""GS702: outputs that the loss or the targets cannot use fire; all usual pairs are silent."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, Severity, Skipped
from gradscope.rules.output_mismatch import OutputMismatch
from tests.gradscope.rules.making import layer, parameter, profile

RULE = OutputMismatch()


def call(function: str, behind: str = "", **changed: Any) -> LossCall:
    entries: dict[str, Any] = {
        "outputs": 10,
        "input_low": 0.0,
        "input_high": 0.9,
        "target_low": 0.0,
        "target_high": 9.0,
        "targets_vary": True,
        "guess": math.nan,
        "constant": (),
    }
    return LossCall(function, behind, **(entries | changed))


def check(loss_call: LossCall, **changed: Any) -> Finding | None:
    found = RULE.check(profile(loss_call=loss_call, **changed), RULE.limits)
    assert found is None or isinstance(found, Finding)
    return found


@pytest.mark.parametrize("behind", ["softmax", "sigmoid", "tanh", "hardsigmoid"])
@pytest.mark.parametrize("function", ["cross_entropy", "binary_cross_entropy_with_logits"])
def test_bounded_functions_before_a_loss_on_logits(function: str, behind: str) -> None:
    finding = check(call(function, behind))
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert finding.sites == ("2",)


def test_the_floor_is_that_of_softmax_before_cross_entropy() -> None:
    finding = check(call("cross_entropy", "softmax"))
    assert finding is not None
    [floor] = finding.evidence.values()
    assert floor.value == pytest.approx(math.log(math.e + 9) - 1)


def test_relu_before_logits() -> None:
    several = check(call("cross_entropy", "relu"))
    assert several is not None
    assert several.severity is Severity.WARNING
    single = check(call("binary_cross_entropy_with_logits", "relu"))
    assert single is not None
    assert single.severity is Severity.ERROR


@pytest.mark.parametrize("function", ["nll_loss", "kl_div"])
def test_values_above_zero_are_no_log_probabilities(function: str) -> None:
    assert check(call(function, "softmax")) is not None
    assert check(call(function, "log_softmax", input_low=-9.0, input_high=1e-7)) is None
    assert check(call(function, input_low=-9.0, input_high=-0.1)) is None


def test_a_softmax_over_one_value() -> None:
    assert check(call("cross_entropy", outputs=1)) is not None
    certain = {"outputs": 1, "input_low": 1.0, "input_high": 1.0}
    assert check(call("binary_cross_entropy", "softmax", **certain)) is not None
    assert check(call("binary_cross_entropy", "softmax", outputs=1)) is None


@pytest.mark.parametrize("function", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
@pytest.mark.parametrize(
    ("behind", "low", "high"),
    [
        ("sigmoid", 0.0, 255.0),
        ("sigmoid", -0.4, 2.8),
        ("tanh", -3.0, 3.0),
        ("relu", -3.0, 3.0),
        ("softmax", 5.0, 5.0),
        ("relu", -1.0, -1.0),
    ],
)
def test_targets_out_of_reach(function: str, behind: str, low: float, high: float) -> None:
    finding = check(call(function, behind, target_low=low, target_high=high))
    assert finding is not None
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    ("function", "behind", "low", "high"),
    [
        ("mse_loss", "sigmoid", 0.0, 1.0),
        ("mse_loss", "sigmoid", -0.05, 1.05),
        ("mse_loss", "tanh", -1.0, 1.0),
        ("mse_loss", "tanh", 0.0, 1.0),
        ("mse_loss", "relu", 0.0, 1e6),
        ("mse_loss", "", -1e6, 1e6),
        ("mse_loss", "clamp", -1e6, 1e6),
        ("mse_loss", "sigmoid", math.nan, math.nan),
        ("l1_loss", "softplus", 0.0, 50.0),
        ("binary_cross_entropy", "sigmoid", 0.0, 1.0),
        ("binary_cross_entropy", "sigmoid", 1.0, 1.0),
        ("binary_cross_entropy_with_logits", "", 0.0, 1.0),
        ("cross_entropy", "", 0.0, 9.0),
        ("cross_entropy", "log_softmax", 0.0, 9.0),
    ],
)
def test_usual_pairs_are_silent(function: str, behind: str, low: float, high: float) -> None:
    assert check(call(function, behind, target_low=low, target_high=high)) is None


def test_outputs_that_are_all_clipped() -> None:
    targets = {"target_low": -2.0, "target_high": 2.0}
    assert check(call("mse_loss", "clamp", input_low=5.0, input_high=5.0, **targets)) is not None
    assert check(call("mse_loss", "clamp", input_low=0.0, input_high=1.0, **targets)) is None


def test_a_softmax_worked_out_by_hand() -> None:
    exact = {"total_low": 1 - 1e-6, "total_high": 1 + 1e-6}
    finding = check(call("cross_entropy", "division", **exact))
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert check(call("cross_entropy", "exp", **(exact | {"total_high": 1.2}))) is None
    assert check(call("cross_entropy", "exp", total_low=math.nan, total_high=math.nan)) is None
    # Ten biases of 0.1 add up to 1, too.
    assert check(call("cross_entropy", "", **exact)) is None


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.2), (1.0, 3.0)])
def test_a_softmax_over_another_dimension(low: float, high: float) -> None:
    given = {"input_low": -9.0, "input_high": -0.1}
    finding = check(call("nll_loss", "log_softmax", total_low=low, total_high=high, **given))
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert check(call("nll_loss", "log_softmax", total_low=0.98, total_high=1.02, **given)) is None


def test_a_loss_that_is_not_known_is_skipped() -> None:
    assert isinstance(RULE.check(profile(loss_call=None), RULE.limits), Skipped)


def test_without_an_output_site_the_last_place_is_named() -> None:
    wrong = call("cross_entropy", "softmax")
    inside = check(wrong, sites=(layer("0"), layer("1", 1)))
    assert inside is not None
    assert inside.sites == ("1",)
    made = profile(loss_call=wrong, parameters=(parameter("w"),))
    bare = RULE.check(dataclasses.replace(made, sites=()), RULE.limits)
    assert isinstance(bare, Finding)
    assert bare.sites == ("w",)
