"""One training: matched batches, divergence, data of every kind, and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradscope.errors import GradscopeError, ModelError
from gradscope.metric import evaluate, higher_is_better
from gradscope.records import Change, Plan, Prescription
from gradscope.subject import Subject, step_from_loss
from gradscope.trial import Arm, Running, other_rate, training_of

SWAP = Plan(
    (Prescription("activation-swap", (Change.FORWARD,), ("1",), {"activation": "tanh"}, "", ""),)
)


def model(dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, generator=generator)
    return inputs, inputs[:, :3].argmax(dim=1)


def a_list() -> list[tuple[Tensor, Tensor]]:
    inputs, targets = examples()
    return list(zip(inputs.split(10), targets.split(10), strict=True))


def a_generator() -> Iterator[tuple[Tensor, Tensor]]:
    yield from a_list()


def a_loader() -> Iterable[Any]:
    return DataLoader(TensorDataset(*examples()), batch_size=10, shuffle=True)


def dictionaries() -> list[dict[str, Tensor]]:
    return [{"input": inputs, "target": targets} for inputs, targets in a_list()]


DATA: dict[str, Callable[[], Iterable[Any]]] = {
    "list": a_list,
    "generator": a_generator,
    "DataLoader": a_loader,
    "tuple": lambda: tuple(a_list()),
}


def loss(output: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def subject(
    data: Callable[[], Iterable[Any]] = a_list,
    build: Callable[[], nn.Module] = model,
    metric: Callable[[nn.Module], Mapping[str, float]] | None = None,
) -> Subject:
    return Subject("a test", build, data, step_from_loss(loss), sgd, metric)


def recording(plain: Subject) -> tuple[Subject, list[Tensor]]:
    """The subject, and the inputs of every batch that a step of it sees."""
    seen: list[Tensor] = []

    def step(model: nn.Module, batch: Any) -> Tensor:
        seen.append(batch[0].clone())
        return plain.step(model, batch)

    return replace(plain, step=step), seen


def batches_of(plain: Subject, arm: Arm, seed: int, steps: int = 15) -> list[Tensor]:
    recorded, seen = recording(plain)
    Running(recorded, arm, seed).advance(steps)
    return seen[:steps]


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_arms_with_one_seed_see_the_same_batches_though_one_has_dropout(
    data: Callable[[], Iterable[Any]],
) -> None:
    plain = batches_of(subject(data), Arm("plain"), 3)
    dropping = batches_of(subject(data, lambda: model(0.5)), Arm("dropout"), 3)
    swapped = batches_of(subject(data, lambda: model(0.5)), Arm("swapped", SWAP), 3)
    assert len(plain) == 15, "more than two passes"
    assert all(map(torch.equal, plain, dropping))
    assert all(map(torch.equal, plain, swapped))


@pytest.mark.parametrize("data", [a_list, a_loader], ids=["list", "DataLoader"])
def test_seeds_differ_in_order_and_each_pass_shows_everything(
    data: Callable[[], Iterable[Any]],
) -> None:
    one, other = (batches_of(subject(data), Arm("plain"), seed, 12) for seed in (1, 2))
    assert not all(map(torch.equal, one, other))
    assert not all(map(torch.equal, one[:6], one[6:]))
    for part in (one[:6], one[6:]):
        assert torch.equal(torch.cat(part).sort(dim=0).values, examples()[0].sort(dim=0).values)


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_the_same_device_changes_nothing(data: Callable[[], Iterable[Any]]) -> None:
    here = batches_of(subject(data), Arm("plain"), 3)
    moved = batches_of(subject(data).on("cpu"), Arm("plain"), 3)
    assert all(map(torch.equal, here, moved))


def test_arms_with_one_seed_start_from_the_same_weights() -> None:
    one, other = Running(subject(), Arm("one"), 5), Running(subject(), Arm("other", SWAP), 5)
    another = Running(subject(), Arm("one"), 6)
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    assert not torch.equal(
        next(iter(one.model.parameters())), next(iter(another.model.parameters()))
    )


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_a_training_repeats_itself_bit_for_bit_and_in_stages(
    data: Callable[[], Iterable[Any]],
) -> None:
    dropping = subject(data, lambda: model(0.5))
    whole, staged = Running(dropping, Arm("plain"), 7), Running(dropping, Arm("plain"), 7)
    whole.advance(20)
    torch.rand(5)
    for steps in (5, 10, 20):
        staged.advance(steps)
        torch.rand(5)
    assert whole.steps == staged.steps == 20
    left, right = whole.model.state_dict(), staged.model.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert whole.trial(matched=True).metric == staged.trial(matched=True).metric


def test_training_trains_and_leaves_the_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    run = Running(subject(), Arm("plain"), 0)
    before = run.trial(matched=False)
    run.advance(200)
    after = run.trial(matched=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert after.metric < 0.5 * before.metric
    assert (after.arm, after.seed, after.steps, after.matched) == ("plain", 0, 200, True)
    assert len(after.curve) == 40
    assert after.curve[-1][0] == 200
    assert all(math.isfinite(value) for _, value in after.curve)


def test_the_learning_rate_is_multiplied() -> None:
    slow, fast = (Running(subject(), arm, 0) for arm in (Arm("as it is"), other_rate(3.0)))
    start = [value.detach().clone() for value in slow.model.parameters()]
    slow.advance(1)
    fast.advance(1)
    for old, one, three in zip(
        start, slow.model.parameters(), fast.model.parameters(), strict=True
    ):
        torch.testing.assert_close((three - old).detach(), 3 * (one - old).detach())


def exploding(metric: Callable[[nn.Module], Mapping[str, float]] | None) -> Running:
    wild = replace(
        subject(metric=metric),
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30),
    )
    run = Running(wild, Arm("wild"), 0)
    run.advance(50)
    return run


@pytest.mark.parametrize("metric", [None, lambda model: {"accuracy": 0.5}])
def test_a_training_that_diverges_stops_and_its_metric_is_nan(
    metric: Callable[[nn.Module], Mapping[str, float]] | None,
) -> None:
    run = exploding(metric)
    assert run.diverged
    assert run.steps < 50
    assert math.isnan(run.trial(matched=True).metric)


def test_evaluate_may_leave_the_model_in_eval_mode() -> None:
    """Many do; what is trained after it must be trained in train mode."""

    def careless(model: nn.Module) -> dict[str, float]:
        model.eval()
        return {"accuracy": 0.5}

    modes: list[bool] = []
    plain = subject(build=lambda: model(0.5), metric=careless)

    def step(model: nn.Module, batch: Any) -> Tensor:
        modes.append(model.training)
        return plain.step(model, batch)

    run = Running(replace(plain, step=step), Arm("plain"), 0)
    run.advance(3)
    run.trial(matched=False)
    run.advance(6)
    assert modes == [True] * 6


def test_a_loss_that_needs_no_gradient_trains_nothing() -> None:
    def frozen() -> nn.Module:
        return model().requires_grad_(False)

    run = Running(subject(build=frozen), Arm("plain"), 0)
    before = [value.clone() for value in run.model.parameters()]
    run.advance(5)
    assert all(map(torch.equal, before, run.model.parameters()))


def data_that_fails_late() -> Iterator[Any]:
    yield from a_list()
    raise OSError("the disk is gone")


def test_data_that_raises_during_training_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="the disk is gone"):
        Running(subject(data_that_fails_late), Arm("plain"), 0).advance(20)


def test_empty_data_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="holds no batch"):
        Running(subject(list), Arm("plain"), 0).advance(1)


def test_an_optimizer_that_cannot_step_is_a_gradscope_error() -> None:
    closure = replace(subject(), build_optimizer=lambda entries: torch.optim.LBFGS(entries))
    with pytest.raises(GradscopeError, match="LBFGS"):
        Running(closure, Arm("plain"), 0).advance(1)


# --- Metrics ----------------------------------------------------------------------------------


def test_without_evaluate_the_loss_is_the_metric() -> None:
    untrained = Running(subject(), Arm("plain"), 0)
    name, value = evaluate(subject(), untrained.model)
    with torch.no_grad():
        losses = [float(loss(untrained.model(batch[0]), batch)) for batch in a_list()]
    assert name == "loss"
    assert value == pytest.approx(sum(losses) / len(losses))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model: {},
        lambda model: 0.9,
        lambda model: {"accuracy": "high"},
        lambda model: None,
        lambda model: 1 / 0,
    ],
)
def test_an_evaluate_that_returns_no_numbers_is_a_model_error(
    wrong: Callable[[nn.Module], Any],
) -> None:
    with pytest.raises(
        ModelError, match=r"evaluate\(\) of a test (must return numbers|raised Zero)"
    ):
        evaluate(subject(metric=wrong), model())


def test_evaluation_is_repeatable_and_leaves_the_random_numbers_alone() -> None:
    noisy = subject(metric=lambda model: {"score": float(torch.rand(()))})
    trained, state = model(), torch.get_rng_state()
    assert evaluate(noisy, trained)[1] == evaluate(noisy, trained)[1]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["accuracy", "test accuracy", "F1", "AUC", "reward", "BLEU", "R2"])
def test_more_is_better(name: str) -> None:
    assert higher_is_better(subject(), name)


@pytest.mark.parametrize("name", ["loss", "Test Loss", "error rate", "MSE", "perplexity"])
def test_less_is_better(name: str) -> None:
    assert not higher_is_better(subject(), name)


def test_a_word_that_only_contains_a_short_name_of_a_loss_is_none() -> None:
    assert higher_is_better(subject(), "apple recall"), "'ppl' is perplexity, 'apple' is not"


def test_without_an_optimizer_it_is_sgd_with_momentum() -> None:
    optimizer = training_of(replace(subject(), build_optimizer=None)).build_optimizer(
        model().parameters()
    )
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.01, 0.9)
