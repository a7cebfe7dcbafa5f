"""GS303: weights off scale fire where signals suffer; norms, last layers, training excuse them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.pipeline import scan
from gradscope.records import Finding, LossCall, Role, Skipped
from gradscope.rules.bad_init_scale import BadInitScale
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject
from tests.gradscope.rules.making import layer, parameter, profile, site

RULE = BadInitScale()
LAYERS = 4


def check(
    *,
    scale: float = 1.0,
    grows: float = 1.0,
    left: float = 1.0,
    excuse: Sequence[Any] = (),
    call: LossCall | None = None,
    **changed: Any,
) -> Finding | Skipped | None:
    """Of four layers whose weights have that RMS times the root of the fan-in.

    Each multiplies the signal by ``grows``; ``left`` of it varies at the end.
    """
    sites = [
        layer(
            str(index),
            index,
            forward_rms=(grows**index,) * 8,
            variation=(left ** (index / (LAYERS - 2)),) * 8,
            is_output=index == LAYERS - 1,
        )
        for index in range(LAYERS)
    ]
    parameters = [
        parameter(f"{index}.weight", weight_norm=scale * math.sqrt(32)) for index in range(LAYERS)
    ]
    made = profile(*sites, parameters=tuple(parameters), loss_call=call)
    return RULE.check(replace(made, **changed), RULE.limits)


@pytest.mark.parametrize("scale", [0.3, 0.577, 1.0, 1.414, 2.0])
def test_usual_scales_are_silent_whatever_the_signal_does(scale: float) -> None:
    assert check(scale=scale, grows=100.0) is None
    assert check(scale=scale, left=1e-9) is None


def test_far_too_large() -> None:
    finding = check(scale=5.7, grows=5.0)
    assert isinstance(finding, Finding)
    assert finding.sites == ("0", "1", "2", "3")
    assert check(scale=5.7) is None, "equalised learning rates: the forward divides again"


def test_a_first_loss_far_above_a_guess_shows_it_too() -> None:
    call = LossCall("cross_entropy", "", 10, -9.0, 9.0, 0.0, 9.0, True, 0.5, (math.nan,) * 8)
    assert isinstance(check(scale=5.7, call=call), Finding)


def test_far_too_small() -> None:
    finding = check(scale=0.05, left=1e-3)
    assert isinstance(finding, Finding)
    assert finding.sites == ("0", "1", "2"), "the last layer may start at zero"
    assert check(scale=0.05, left=0.5) is None


def test_of_one_sample_the_size_of_the_signal_counts() -> None:
    sites = [
        layer(str(index), index, forward_rms=(10.0**-index,) * 8, variation=(math.nan,) * 8)
        for index in range(LAYERS)
    ]
    weights = tuple(parameter(f"{index}.weight", weight_norm=0.3) for index in range(LAYERS))
    made = profile(*sites, parameters=weights, batch_size=1)
    assert isinstance(RULE.check(replace(made), replace(RULE.limits, left=0.05)), Finding)


def test_a_trained_model_is_silent() -> None:
    call = LossCall("cross_entropy", "", 10, -9.0, 9.0, 0.0, 9.0, True, math.nan, (2.4,) * 8)
    assert check(scale=5.7, grows=5.0, call=call) is None
    assert isinstance(check(scale=5.7, grows=5.0, call=call, losses=(2.5,) * 8), Finding)


def test_rows_of_weights_that_show_training_silence_it() -> None:
    for spread, fires in ((0.04, True), (1.0, False)):
        large = [
            parameter(f"{index}.weight", shape=(256, 256), weight_norm=91.0, row_spread=spread)
            for index in range(LAYERS)
        ]
        assert isinstance(check(grows=5.0, parameters=tuple(large)), Finding) is fires


def test_of_unknown_losses_normalisations_tell_what_is_trained() -> None:
    sites = [layer(str(index), index, forward_rms=(9.0,) * 8) for index in range(2)]
    norm = site("n", 5, role=Role.NORMALISATION)
    weights = [parameter(f"{index}.weight", weight_norm=40.0) for index in range(2)]
    fresh = parameter("n.weight", shape=(32,), weight_norm=math.sqrt(32))
    for gain, fires in ((fresh, True), (replace(fresh, weight_norm=5.0), False)):
        made = profile(*sites, norm, parameters=(*weights, gain))
        assert isinstance(RULE.check(made, RULE.limits), Finding) is fires


def test_behind_a_normalisation_scale_does_not_matter() -> None:
    sites = []
    for index in range(0, 9, 3):
        sites += [
            layer(f"{index}", index, forward_rms=(50.0,) * 8),
            site(f"{index + 1}", index + 1),
            site(f"{index + 2}", index + 2, role=Role.NORMALISATION),
        ]
    weights = tuple(parameter(f"{index}.weight", weight_norm=60.0) for index in range(0, 9, 3))
    assert RULE.check(profile(*sites, parameters=weights), RULE.limits) is None


@pytest.mark.parametrize("changed", [{"parameters": ()}, {"losses": ()}])
def test_what_cannot_be_told_is_silent(changed: dict[str, Any]) -> None:
    assert check(scale=5.7, grows=5.0, **changed) is None


def test_numbers_that_are_not_finite_are_left_to_others() -> None:
    sites = [layer(str(index), index, forward_rms=(math.nan,) * 8) for index in range(2)]
    for norm in (math.nan, math.inf):
        weights = (parameter(weight_norm=norm, nonfinite=1), parameter("1.weight", weight_norm=1e3))
        assert RULE.check(profile(*sites, parameters=weights), RULE.limits) is None


@pytest.mark.parametrize("std", [1.0, 0.01, 0.001])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_fixed_standard_deviations_in_a_network(activation: type[nn.Module], std: float) -> None:
    def initialise(layer: nn.Linear) -> None:
        nn.init.normal_(layer.weight, std=std)

    subject = random_subject(
        "a fixed standard deviation",
        lambda: perceptron(activation, layers=4, initialise=initialise),
    )
    assert [each.code for each in scan(subject, select=["GS303"]).findings] == ["GS303"]


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers(kind: type[nn.RNNBase]) -> None:
    class Last(nn.Module):
        def __init__(self, std: float | None) -> None:
            super().__init__()
            self.recurrent = kind(4, 48, batch_first=True)
            self.head = nn.Linear(48, 10)
            if std is not None:
                for weight in self.recurrent.parameters():
                    nn.init.normal_(weight, std=std)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.head(self.recurrent(x)[0][:, -1])

    for std, found in ((1.0, ["GS303"]), (1e-3, ["GS303"]), (None, [])):
        subject = random_subject("recurrent", lambda std=std: Last(std), shape=(16, 12, 4))
        assert [each.code for each in scan(subject, select=["GS303"]).findings] == found


class Tied(nn.Module):
    """The embedding is the head too, drawn on ``std``."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 256)
        nn.init.normal_(self.embed.weight, std=std)
        self.norm = nn.LayerNorm(256)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.embed(tokens).mean(1)) @ self.embed.weight.T


@pytest.mark.parametrize(("std", "codes"), [(1.0, {"GS303"}), (256**-0.5, set())])
def test_an_embedding_that_is_the_head_is_judged_as_a_head(std: float, codes: set[str]) -> None:
    tokens = torch.randint(16, (8, 32, 4), generator=torch.Generator().manual_seed(0))
    subject = Subject.of(
        Tied(std),
        [(batch, batch[:, 0]) for batch in tokens],
        lambda output, batch: nn.functional.cross_entropy(output, batch[1]),
    )
    report = scan(subject, select=["GS303"])
    assert {finding.code for finding in report.findings} == codes
