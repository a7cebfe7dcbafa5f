"""Made-up inputs: the same on every pass, marked as made up, with a loss where none was given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.batches import tensors_in
from gradscope.errors import ModelError
from gradscope.inputs import inferred_batches, on_random_inputs, own_or_projected
from gradscope.records import Source, Status
from gradscope.subject import Subject


class Returns(nn.Module):
    """A linear layer whose output is passed through a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.linear(x))


def subject(model: nn.Module) -> Subject:
    def no_loss(output: Any, batch: Any) -> Tensor:
        raise AssertionError("this subject's own loss must not be used")

    made = Subject.of(model, None, no_loss, evaluate=lambda model: {"accuracy": 1.0})
    return on_random_inputs(made, (4,), has_loss=False)


def batches(made: Subject) -> list[Tensor]:
    assert made.build_data is not None
    return list(made.build_data())


def test_the_batches_are_standard_normal_and_the_same_on_every_pass() -> None:
    made = subject(nn.Linear(4, 3))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = batches(made)
    assert torch.equal(torch.get_rng_state(), state)
    assert {tuple(batch.shape) for batch in first} == {(32, 4)}
    values = torch.cat(first).flatten()
    assert abs(values.mean()) < 4 / math.sqrt(len(values))
    assert values.std() == pytest.approx(1, abs=0.05)
    assert not torch.equal(first[0], first[1])
    torch.rand(3)
    assert all(torch.equal(one, two) for one, two in zip(first, batches(made), strict=True))
    assert made.build_data is not None
    data = made.build_data()
    assert torch.equal(next(iter(data)), next(iter(data)))


def test_a_scan_is_marked_as_synthetic_and_a_fix_as_unverified() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    made = subject(model)
    assert made.evaluate is None
    report = gradscope.scan(made)
    assert report.profile is not None
    assert report.profile.source is Source.SYNTHETIC
    with torch.no_grad():
        model[0].bias.fill_(-100)
    verdict = gradscope.fix(made, budget=1).verdict
    assert verdict is not None
    assert verdict.status is Status.UNVERIFIED


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y,
        lambda y: {"logits": y, "aux": None},
        lambda y: (y, "state"),
        lambda y: y.unsqueeze(-1).unsqueeze(-1),
        lambda y: y.half(),
        lambda y: y[:, 0],
        lambda y: (y.argmax(dim=1), y),
        lambda y: (y, y.double().square(), torch.zeros(7, 3)),
    ],
    ids=["matrix", "mapping", "tuple", "maps", "half", "numbers", "second", "two heads"],
)
def test_the_made_up_loss_has_a_gradient_of_scale_one_over_samples(
    function: Callable[[Tensor], Any],
) -> None:
    model = Returns(function)
    made = subject(model)
    (batch,) = batches(made)[:1]
    loss = made.step(model, batch)
    assert loss.shape == ()
    assert torch.equal(loss, made.step(model, batch))
    (gradient,) = torch.autograd.grad(loss, model.linear.bias)
    assert 0.1 < float(gradient.abs().max()) < 5


def test_an_own_loss_is_used() -> None:
    model = nn.Linear(4, 3)
    own = Subject.of(model, None, lambda output, batch: output.square().mean())
    made = on_random_inputs(own, (4,), has_loss=True)
    (batch,) = batches(made)[:1]
    assert torch.equal(made.step(model, batch), model(batch).square().mean())


@pytest.mark.parametrize("result", [None, "text", torch.zeros(3, dtype=torch.long)])
def test_an_output_without_a_real_tensor_is_named_with_the_way_out(result: Any) -> None:
    made = subject(Returns(lambda y: result))
    with pytest.raises(ModelError) as caught:
        gradscope.scan(made)
    message = str(caught.value)
    assert "returned no real tensor to make a loss of" in message
    assert "--loss FILE.py:NAME" in message
    assert "ModelError" not in message


# --- Inferred inputs ------------------------------------------------------------------------------


def first(model: nn.Module) -> Any:
    return next(iter(inferred_batches(model)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_models_type(dtype: torch.dtype) -> None:
    assert first(nn.Linear(4, 3).to(dtype)).dtype is dtype


def test_the_same_batches_on_every_pass_without_touching_the_generators() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    batches = inferred_batches(model)
    one, two = list(batches), list(batches)
    assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))
    assert not torch.equal(one[0], one[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_weights_that_are_not_there_yet_are_told() -> None:
    with pytest.raises(ModelError, match="lazy layers without weights"):
        inferred_batches(nn.Sequential(nn.LazyLinear(3)))


def test_a_models_own_loss_is_used_without_data() -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return {"loss": super().forward(x).square().mean() + 100}

    def unused(output: Any, batch: Any) -> Tensor:
        raise AssertionError("there are no targets for it")

    report = gradscope.scan(Subject.of(Own(4, 3), None, unused))
    assert report.profile is not None
    assert report.profile.source == "synthetic"
    assert min(report.profile.losses) > 100


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Linear(4, 2),
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)),
        lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
    ],
    ids=["numbers", "tokens", "two arguments"],
)
def test_the_default_device_is_not_the_models(build: Callable[[], nn.Module]) -> None:
    model = build()
    expected = list(tensors_in(first(model)))
    with torch.device("meta"):
        made = list(tensors_in(first(model)))
    assert {tensor.device.type for tensor in made} == {"cpu"}
    assert all(torch.equal(one, two) for one, two in zip(made, expected, strict=True))


def test_the_default_device_matters_neither_to_random_inputs_nor_to_the_loss() -> None:
    model = nn.Linear(4, 3)
    (expected,) = batches(subject(model))[:1]
    loss = own_or_projected(model(expected))
    with torch.device("meta"):
        (made,) = batches(subject(model))[:1]
        again = own_or_projected(model(made))
    assert torch.equal(made, expected)
    assert torch.equal(again, loss)
