"""What the first layer is given, what the model returns, and gradients too small for their type."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope
from gradscope.records import LayerInput, Profile

STEPS = 2
SCALE = torch.tensor([1.0, 100.0, 0.0, 2.0])


def profile(
    model: nn.Module, x: Tensor, loss: Callable[[Any], Tensor] | None = None, **options: Any
) -> Profile:
    def mean_square(output: Any) -> Tensor:
        return output.float().square().mean()  # type: ignore[no-any-return]

    return gradscope.profile(
        model, [x, x], lambda output, _: (loss or mean_square)(output), steps=STEPS, **options
    )


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def first_input(model: nn.Module, x: Tensor, **options: Any) -> LayerInput:
    found = next(iter(profile(model, x, **options).first_inputs), None)
    assert found is not None
    return found


# --- The first layer's input ------------------------------------------------------------------


class Functional(nn.Module):
    """One call of a function with a weight of its own."""

    def __init__(self, call: Callable[[Tensor, nn.Parameter], Tensor], *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(data(*shape) / 10)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight)


class First(nn.Module):
    """A recurrent layer's outputs alone."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]  # type: ignore[no-any-return]


def spread_of(x: Tensor, axis: int) -> float:
    levels = x.double().movedim(axis, 0).flatten(1).square().mean(dim=1).sqrt()
    return float(levels.max() / levels[levels != 0].quantile(0.5))


@pytest.mark.parametrize(
    ("model", "x", "axis"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 3)), data(8, 4) * SCALE, 1),
        (lambda: nn.Sequential(nn.Linear(4, 3)), data(8, 5, 4) * SCALE, 2),
        (lambda: nn.Sequential(nn.Conv2d(4, 3, 1)), data(8, 4, 2, 5) * SCALE[:, None, None], 1),
        (lambda: nn.Sequential(nn.Conv1d(4, 3, 1)), data(8, 4, 4) * SCALE[:, None], 1),
        (lambda: nn.Sequential(nn.ConvTranspose1d(4, 3, 1)), data(8, 4, 4) * SCALE[:, None], 1),
        (lambda: First(nn.GRU(4, 3, batch_first=True)), data(8, 5, 4) * SCALE, 2),
        (lambda: First(nn.GRU(4, 3)), data(5, 8, 4) * SCALE, 2),
        (lambda: First(nn.RNN(4, 3)), data(8, 4) * SCALE, 1),
        (lambda: Functional(functional.linear, 3, 4), data(8, 4) * SCALE, 1),
        (
            lambda: Functional(lambda x, w: functional.linear(weight=w, input=x), 3, 4),
            data(8, 4) * SCALE,
            1,
        ),
        (
            lambda: Functional(functional.conv2d, 3, 4, 1, 1),
            data(8, 4, 2, 2) * SCALE[:, None, None],
            1,
        ),
        (lambda: Functional(torch.matmul, 4, 3), data(8, 4) * SCALE, 1),
        (lambda: Functional(lambda x, w: w @ x.T, 3, 4), data(8, 4) * SCALE, 1),
        (lambda: Functional(lambda x, w: torch.addmm(w[0], x, w), 4, 4), data(8, 4) * SCALE, 1),
    ],
)
def test_features_are_where_the_layer_has_them(
    model: Callable[[], nn.Module], x: Tensor, axis: int
) -> None:
    found = first_input(model(), x)
    assert found.rms == pytest.approx([float(x.double().square().mean().sqrt())] * STEPS)
    assert found.peak == pytest.approx([float(x.abs().max())] * STEPS)
    assert found.feature_spread == pytest.approx([spread_of(x, axis)] * STEPS)


def test_every_layer_that_data_reaches_first_is_looked_at() -> None:
    class Towers(nn.Module):
        """Two layers on parts of the input, one behind a normalisation, one behind a layer."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(2)
            self.left, self.right = nn.Linear(2, 4), nn.Linear(2, 4)
            self.normed, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            left, right = x.chunk(2, dim=1)
            sides = self.left(left) + self.right(100 * right) + self.normed(self.norm(left))
            return self.head(sides)  # type: ignore[no-any-return]

    x = data(8, 4)
    found = {each.site: each.peak[0] for each in profile(Towers(), x).first_inputs}
    assert found == {
        "left": pytest.approx(float(x[:, :2].abs().max())),
        "right": pytest.approx(100 * float(x[:, 2:].abs().max())),
    }


def test_a_layer_inside_another_one_is_the_first() -> None:
    class Embeddings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.ones(4))
            self.projection = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.projection(x / 10) + self.token  # type: ignore[no-any-return]

    x = data(8, 4)
    found = first_input(nn.Sequential(Embeddings()), x)
    assert found.site == "0.projection"
    assert found.peak[0] == pytest.approx(float(x.abs().max()) / 10)


def test_the_input_is_measured_before_the_layer_can_write_to_it() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor(7.0))

        def forward(self, x: Tensor) -> Tensor:
            return x.add_(self.bias)

    class Copied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = Shift()

        def forward(self, x: Tensor) -> Tensor:
            return self.shift(x.clone())  # type: ignore[no-any-return]

    x = data(8, 4)
    assert first_input(Copied(), x).peak[0] == pytest.approx(float(x.abs().max()))


@pytest.mark.parametrize(
    "first",
    [
        lambda: nn.LayerNorm(4),
        nn.ReLU,
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)),
    ],
)
def test_a_model_that_begins_with_something_else_has_none(first: Callable[[], nn.Module]) -> None:
    assert profile(nn.Sequential(first(), nn.Linear(4, 2)), data(8, 4)).first_inputs == ()


def test_what_is_no_data_or_no_number_is_not_looked_at() -> None:
    class Queries(nn.Module):
        """It begins with what it has learned."""

        def __init__(self) -> None:
            super().__init__()
            self.queries, self.layer = nn.Parameter(data(1, 4)), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.queries) + x  # type: ignore[no-any-return]

    assert profile(Queries(), data(8, 4)).first_inputs == ()
    embedding = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    assert profile(embedding, torch.arange(8) % 5).first_inputs == ()


def test_numbers_that_are_none_do_not_fail() -> None:
    x = data(8, 4)
    x[0, 0], x[1, 1] = torch.nan, torch.inf
    found = first_input(nn.Sequential(nn.Linear(4, 2)), x)
    assert math.isnan(found.rms[0])
    assert math.isnan(found.feature_spread[0])
    assert found.peak[0] == pytest.approx(float(x[x.isfinite()].abs().max()))
    zeros = first_input(nn.Sequential(nn.Linear(4, 2)), torch.zeros(8, 4))
    assert (zeros.rms, zeros.peak) == ((0, 0), (0, 0))
    assert math.isnan(zeros.feature_spread[0])
    assert first_input(nn.Sequential(nn.Linear(1, 2)), data(8, 1)).feature_spread[0] == 1


# --- What the model returns -------------------------------------------------------------------


class Returns(nn.Module):
    """What ``wrap`` makes of the outputs of a linear layer."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layer(x))


def variation(y: Tensor) -> float:
    y = y.detach().double()
    return float((y - y.mean(dim=0)).square().mean().sqrt() / y.square().mean().sqrt())


@pytest.mark.parametrize(
    ("wrap", "returned"),
    [
        (lambda y: y, lambda y: y),
        (lambda y: y.softmax(dim=1), lambda y: y.softmax(dim=1)),
        (lambda y: y.sum(dim=1), lambda y: y.sum(dim=1)),
        (lambda y: (y.mean(), y), lambda y: y),
        (lambda y: {"loss": y.mean(), "number": y.argmax(dim=1), "logits": y}, lambda y: y),
        (lambda y: (y.new_ones(2, 5), y * 2 + 1), lambda y: y * 2 + 1),
        (lambda y: y.t(), lambda y: y),
        (lambda y: (y.new_ones(3), y.reshape(-1)), lambda y: y.reshape(-1)),
    ],
)
def test_the_first_tensor_of_samples_that_is_returned(
    wrap: Callable[[Tensor], Any], returned: Callable[[Tensor], Tensor]
) -> None:
    model, x = Returns(wrap), data(8, 4)

    def loss(output: Any) -> Tensor:
        if isinstance(output, dict):
            return output["logits"].square().mean()  # type: ignore[no-any-return]
        last = output[-1] if isinstance(output, tuple) else output
        return last.square().mean()  # type: ignore[no-any-return]

    found = profile(model, x, loss).output_variation
    assert found == pytest.approx([variation(returned(model.layer(x)))] * STEPS)


def test_a_constant_output_does_not_vary() -> None:
    model = Returns(lambda y: y)
    nn.init.zeros_(model.layer.weight)
    assert profile(model, data(8, 4)).output_variation == (0, 0)


def test_one_sample_and_no_tensor_of_samples() -> None:
    assert all(math.isnan(value) for value in profile(Returns(abs), data(1, 4)).output_variation)
    scalar = profile(Returns(lambda y: y.square().mean()), data(8, 4))
    assert scalar.output_variation == ()


def test_passes_that_only_count_units_add_no_step() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    batches = [data(8, 4) + k for k in range(6)]
    found = gradscope.profile(model, batches, lambda y, _: y.square().mean(), steps=STEPS)
    assert found.site("1").observations > 8 * STEPS
    assert found.first_inputs
    series = (found.output_variation, found.input_variation, found.first_inputs[0].rms)
    assert [len(each) for each in series] == [STEPS] * 3


# --- Small gradients --------------------------------------------------------------------------


def test_half_precision_shows_how_much_is_subnormal() -> None:
    model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1)).half()
    x = data(16, 4).half()
    tiny = torch.finfo(torch.float16).smallest_normal
    loss: Callable[[Tensor], Tensor] = lambda y: y.float().sum() * tiny  # noqa: E731
    found = profile(model, x, loss).site("0").backward_subnormal
    y = model[1](model[0](x))
    gradient = (1 - y.double() ** 2) * model[2].weight.double() * tiny
    assert found == pytest.approx([float((gradient.abs() < tiny).double().mean())] * STEPS)
    # What mixed precision scales the loss for.
    scaled = profile(model, x, loss, loss_scale=2.0**14).site("0").backward_subnormal
    assert scaled[0] < found[0]


def test_no_gradient_at_all_has_no_share() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).half()
    nn.init.constant_(model[0].bias, -100.0)
    found = profile(model, data(8, 4).half()).site("0")
    assert all(math.isnan(value) for value in found.backward_subnormal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types_with_the_range_of_float32_are_not_looked_at(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).to(dtype)
    assert profile(model, data(8, 4).to(dtype)).site("0").backward_subnormal == ()
