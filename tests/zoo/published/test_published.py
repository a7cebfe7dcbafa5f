"""Each published rule fires on what it is for, and on nothing else; recording sees and leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.subject import Subject
from tests.zoo.published import RULE_SETS, Trace, record
from tests.zoo.published.measures import Gradient, Signal, Weight, effective_rank, signal_of
from tests.zoo.published.trace import Layer, Parameter

STEPS = 48
GRADIENT = Gradient(finite=True, norm=0.1, magnitude=0.01, largest=0.5, zeros=0.0, spread=0.1)
SIGNAL = Signal(
    finite=True, variance=1.0, zeros=0.4, near_zeros=0.4, near_ones=0.2,
    inactive=0.1, saturated=0.1, idle=0.0,
)  # fmt: skip

Change = Callable[[Trace], Trace]


def healthy() -> Trace:
    def parameter(name: str) -> Parameter:
        weights = tuple(
            Weight(True, 0.0, 0.1, 0.3, norm=1 + step / 1000, change=1e-3, change_norm=1e-3)
            for step in range(STEPS)
        )
        return Parameter(name, False, True, 100, (GRADIENT,) * STEPS, weights)

    def layer(name: str, kind: str, weight: str | None = None) -> Layer:
        learns = weight is not None
        series = (SIGNAL,) * STEPS
        return Layer(name, kind, weight, learns, learns, series, series, (0.1,) * STEPS, (8.0,) * 3)

    return Trace(
        losses=tuple(2 * 0.98**step for step in range(STEPS)),
        accuracies=tuple(0.3 + 0.0125 * step for step in range(STEPS)),
        passes=tuple(range(STEPS)),
        layers=(
            layer("0", "Linear", "0.weight"),
            layer("1", "ReLU"),
            layer("2", "Tanh"),
            layer("3", "Linear", "3.weight"),
        ),
        parameters=tuple(map(parameter, ("0.weight", "0.bias", "3.weight", "3.bias"))),
    )


def parameters(name: str, series: str, **fields: Any) -> Change:
    """Changes an entry of that parameter's gradients or weights in every step."""

    def change(trace: Trace) -> Trace:
        def changed(parameter: Parameter) -> Parameter:
            if parameter.name != name:
                return parameter
            entries = tuple(replace(each, **fields) for each in getattr(parameter, series))
            return replace(parameter, **{series: entries})

        return replace(trace, parameters=tuple(map(changed, trace.parameters)))

    return change


def layers(name: str, series: str, **fields: Any) -> Change:
    """Changes an entry of that layer's inputs or outputs in every step."""

    def change(trace: Trace) -> Trace:
        def changed(layer: Layer) -> Layer:
            if layer.name != name:
                return layer
            entries = tuple(replace(each, **fields) for each in getattr(layer, series))
            return replace(layer, **{series: entries})

        return replace(trace, layers=tuple(map(changed, trace.layers)))

    return change


def layer_series(name: str, **series: Any) -> Change:
    def change(trace: Trace) -> Trace:
        return replace(
            trace,
            layers=tuple(
                replace(layer, **series) if layer.name == name else layer for layer in trace.layers
            ),
        )

    return change


def last_norm(name: str, norm: float) -> Change:
    """Gives a weight another norm in the last step."""

    def change(trace: Trace) -> Trace:
        def changed(parameter: Parameter) -> Parameter:
            last = replace(parameter.weights[-1], norm=norm)
            return replace(parameter, weights=(*parameter.weights[:-1], last))

        return replace(
            trace,
            parameters=tuple(
                changed(each) if each.name == name else each for each in trace.parameters
            ),
        )

    return change


def whole(**fields: Any) -> Change:
    return lambda trace: replace(trace, **fields)


def both(*changes: Change) -> Change:
    def change(trace: Trace) -> Trace:
        for each in changes:
            trace = each(trace)
        return trace

    return change


INACCURATE = whole(accuracies=tuple(0.1 + 0.012 * step for step in range(STEPS)))

FIRES = [
    (
        "autotrainer", "gradient vanish",
        both(INACCURATE, parameters("0.weight", "gradients", norm=1e-5)),
    ),
    (
        "autotrainer", "gradient explode",
        both(INACCURATE, parameters("0.weight", "gradients", norm=7.1)),
    ),
    ("autotrainer", "gradient explode", parameters("0.bias", "weights", finite=False)),
    ("autotrainer", "gradient explode", whole(losses=(1e5,) * STEPS)),
    (
        "autotrainer", "dying ReLU",
        both(
            INACCURATE,
            *(
                parameters(f"{layer}.{own}", "gradients", zeros=0.7)
                for layer in (0, 3)
                for own in ("weight", "bias")
            ),
        ),
    ),
    ("autotrainer", "oscillating loss", whole(accuracies=(0.9, 0.8) * (STEPS // 2))),
    ("autotrainer", "slow convergence", whole(accuracies=(0.5,) * STEPS)),
    ("smdebug", "VanishingGradient", parameters("0.bias", "gradients", magnitude=9e-8)),
    ("smdebug", "ExplodingTensor", layers("1", "outputs", finite=False)),
    ("smdebug", "ExplodingTensor", parameters("0.bias", "gradients", finite=False)),
    ("smdebug", "DeadRelu", layers("1", "outputs", inactive=0.51)),
    ("smdebug", "SaturatedActivation", layers("2", "inputs", saturated=0.51)),
    ("smdebug", "WeightUpdateRatio", parameters("0.weight", "weights", change=4.0)),
    ("smdebug", "WeightUpdateRatio", parameters("0.weight", "weights", change=0.0)),
    ("smdebug", "LossNotDecreasing", whole(losses=tuple(2 + step / 50 for step in range(STEPS)))),
    ("smdebug", "PoorWeightInitialization", parameters("0.bias", "gradients", spread=9e-4)),
    ("smdebug", "PoorWeightInitialization", whole(losses=(2.0,) * STEPS)),
    ("smdebug examples", "AllZero", layers("0", "outputs", zeros=1.0)),
    ("smdebug examples", "TensorVariance", parameters("0.weight", "weights", variance=10.1)),
    ("smdebug examples", "UnchangedTensor", whole(losses=(2.0, *(1.5,) * (STEPS - 1)))),
    ("torchdiag", "exploding", parameters("0.bias", "gradients", largest=101.0)),
    ("torchdiag", "vanishing", parameters("0.bias", "gradients", largest=9e-8)),
    ("torchdiag", "dead neurons", layers("1", "outputs", idle=0.21)),
    ("torchdiag", "loss is not finite", whole(losses=(math.nan,) * STEPS)),
    ("torchdiag", "all parameters are frozen", whole(parameters=())),
    ("torchmortem", "vanishing gradients", layer_series("0", gradients=(9e-4,) * STEPS)),
    ("torchmortem", "vanishing gradients", layer_series("0", gradients=(math.nan,) * STEPS)),
    ("torchmortem", "exploding gradients", layer_series("0", gradients=(1001.0,) * STEPS)),
    ("torchmortem", "gradient stalling", layer_series("3", gradients=(0.0,) * STEPS)),
    ("torchmortem", "dead units", layers("1", "outputs", near_zeros=0.51)),
    ("torchmortem", "activation saturation", layers("3", "outputs", near_ones=0.51)),
    ("torchmortem", "update ratio too low", parameters("3.weight", "weights", change_norm=9e-6)),
    ("torchmortem", "update ratio too high", parameters("3.weight", "weights", change_norm=0.2)),
    ("torchmortem", "training divergence", whole(losses=tuple(1.1**step for step in range(STEPS)))),
    ("torchmortem", "loss plateau", whole(losses=(2.0,) * STEPS)),
    (
        "torchmortem", "gradient noise",
        both(*(layer_series(name, gradients=((0.01,) * 15 + (1.0,)) * 3) for name in "03")),
    ),
    ("torchmortem", "rank collapse", layer_series("0", ranks=(8.0, 6.0, 3.9))),
    ("torchmortem", "weight norm explosion", last_norm("0.weight", 10.1)),
    ("torchmortem", "stagnant weight norms", last_norm("0.weight", 1.00009)),
    ("torchmortem", "weight norm imbalance", last_norm("0.weight", 0.01)),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "fault", "change"), FIRES)
def test_a_rule_fires_on_its_fault(tool: str, fault: str, change: Change) -> None:
    assert fault in RULE_SETS[tool](change(healthy()))


@pytest.mark.parametrize("tool", RULE_SETS)
def test_no_rule_fires_on_a_good_trace(tool: str) -> None:
    assert RULE_SETS[tool](healthy()) == []


def test_missing_gradients_and_lost_updates_are_seen_by_torchdiag() -> None:
    lost = [parameters(each.name, "weights", change=0.0) for each in healthy().parameters]
    assert RULE_SETS["torchdiag"](both(*lost)(healthy())) == ["no parameters changed"]
    first, *others = healthy().parameters
    without = replace(first, gradients=(None,) * STEPS)
    assert RULE_SETS["torchdiag"](whole(parameters=(without, *others))(healthy())) == [
        "no gradient"
    ]


def test_variances_of_rectified_inputs_are_compared_between_layers() -> None:
    trace = healthy()
    wide = replace(trace.layers[1], name="4", inputs=(replace(SIGNAL, variance=10.1),) * STEPS)
    uneven = replace(trace, layers=(*trace.layers, wide))
    assert RULE_SETS["smdebug"](uneven) == ["PoorWeightInitialization"]


def test_autotrainer_leaves_accurate_models_alone() -> None:
    fading = parameters("0.weight", "gradients", norm=1e-5)
    gained = whole(accuracies=(0.7, *(0.75 + step / 200 for step in range(STEPS - 1))))
    crept = whole(accuracies=tuple(0.75 + step / 200 for step in range(STEPS)))
    assert RULE_SETS["autotrainer"](both(fading, gained)(healthy())) == []
    assert RULE_SETS["autotrainer"](both(fading, crept)(healthy())) == ["gradient vanish"]


def test_autotrainer_judges_a_single_pass_by_its_gradients() -> None:
    one = whole(passes=(0,) * STEPS, accuracies=(None,) * STEPS)
    fading = parameters("0.weight", "gradients", norm=1e-5)
    assert RULE_SETS["autotrainer"](one(healthy())) == []
    assert RULE_SETS["autotrainer"](both(one, fading)(healthy())) == ["gradient vanish"]


def test_ranks_of_outputs() -> None:
    assert effective_rank(torch.eye(6)) == pytest.approx(6)
    assert effective_rank(torch.ones(4, 3)) == pytest.approx(1)
    assert effective_rank(torch.full((4, 3), math.nan)) == 0


def test_shares_of_an_output() -> None:
    output = torch.tensor([[0.0, 2.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    signal = signal_of(output, "ReLU")
    assert signal is not None
    assert (signal.near_zeros, signal.near_ones) == (6 / 8, 1 / 8)
    assert (signal.inactive, signal.idle) == (0.5, 0.5)
    assert signal_of(torch.tensor([1, 2]), "ReLU") is None
    saturated = signal_of(torch.tensor([[9.0, 10.0], [0.0, -10.0]]), "Tanh")
    assert saturated is not None
    assert saturated.saturated == 0.5


class Mixed(nn.Module):
    """An in-place module, one that returns a tuple, one that is never called, a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.relu = nn.ReLU(inplace=True)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.unused = nn.Linear(5, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.relu(self.first(x)))
        return self.last(functional.relu(hidden[:, -1]))


def subject(scale: float = 1.0, build_model: Callable[[], nn.Module] = Mixed) -> Subject:
    source = torch.Generator().manual_seed(0)
    batches = [
        (scale * torch.randn(8, 7, 4, generator=source), torch.randint(3, (8,), generator=source))
        for _ in range(2)
    ]

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    return Subject("mixed", build_model, lambda: batches, step)


def test_recording_trains_and_sees_modules_only() -> None:
    torch.manual_seed(3)
    model, state = Mixed(), torch.get_rng_state()
    before = model.first.weight.detach().clone()
    trace = record(subject(), 5, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model.first.weight, before)
    assert not any(module._forward_hooks for module in model.modules())
    assert trace.passes == (0, 0, 1, 1, 2)
    assert all(accuracy is not None for accuracy in trace.accuracies)
    seen = {layer.name: layer for layer in trace.layers}
    assert list(seen) == ["first", "relu", "lstm", "unused", "last"]
    assert seen["relu"].inputs == seen["relu"].outputs  # overwritten in place
    assert seen["first"].outputs[0] != seen["relu"].outputs[0]
    assert seen["lstm"].outputs == (None,) * 5
    assert all(norm > 0 for norm in seen["lstm"].gradients)
    assert seen["unused"].gradients == (0.0,) * 5
    assert trace.parameter("unused.weight").gradients == (None,) * 5
    assert seen["first"].ranks[0] > 1
    change = trace.parameter("first.weight").weights[0].change_norm
    gradient = trace.parameter("first.weight").gradients[0]
    assert gradient is not None
    assert change == pytest.approx(0.01 * gradient.norm, rel=1e-3)  # SGD(lr=0.01)


def test_the_subjects_own_model_depends_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    one = record(subject(), 2, seed=4)
    torch.manual_seed(1)
    assert record(subject(), 2, seed=4) == one
    assert record(subject(), 2, seed=5).losses != one.losses


def test_the_gradient_of_an_output_is_that_of_autograd() -> None:
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 1))
    hidden = model[0](batch)
    (expected,) = torch.autograd.grad(model[2](hidden.relu()).square().mean(), hidden)
    given = Subject("s", nn.Identity, lambda: [batch], lambda model, x: model(x).square().mean())
    trace = record(given, 1, model)
    assert trace.layers[0].gradients[0] == pytest.approx(float(expected.norm()), rel=1e-5)
    assert trace.accuracies == (None,)


def test_recording_survives_nan() -> None:
    trace = record(subject(scale=math.nan), 3)
    assert math.isnan(trace.losses[-1])
    for tool in RULE_SETS.values():
        tool(trace)
    assert "ExplodingTensor" in RULE_SETS["smdebug"](trace)
    assert RULE_SETS["autotrainer"](trace) == ["gradient explode"]


def test_what_a_model_raises_comes_through_and_no_hook_remains() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 3))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        record(subject(), 1, model)
    assert not any(module._forward_hooks for module in model.modules())


def test_data_without_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="mixed holds no batch"):
        record(replace(subject(), build_data=list), 1)
