"""Ensembles come out as plain torch trains their runs one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gradscope.derivatives import derivative
from gradscope.examples import derivative_search as search
from gradscope.examples import paper_relu_approximation as paper_relu
from gradscope.examples import paper_sigmoid_comparison as paper_sigmoid
from gradscope.examples.experiments.ensemble import Activation, Task, common, he, train, xavier
from gradscope.examples.experiments.handover import Annealed, Converting, Handover, Never
from gradscope.patch import Patch, replace_derivative
from gradscope.patching import reach
from gradscope.schedule import Annealing, Conversion

EPOCHS = 6
SAMPLES, TESTED, BATCH = 120, 50, 25


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.empty(2, count).uniform_(-1.5, 1.5, generator=generator)
    return x, (x[:1] - x[1:]).abs()


def task(activation: Activation, **changes: object) -> Task:
    plain = Task((2, 3, 2, 2, 1), common, activation, False, draw, (SAMPLES, TESTED), "adam", 0.01,
                 BATCH, EPOCHS)  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def alone(
    task: Task,
    seed: int,
    module: Callable[[], nn.Module],
    patched: Callable[[nn.Module], Patch] | None = None,
    scheduled: Callable[[Patch], Callable[[float], object]] = lambda patch: lambda loss: None,
) -> Tensor:
    """The best test loss of one run by torch's own modules, autograd and optimizers."""
    generator = torch.Generator().manual_seed(seed)
    (inputs, targets), (unseen, truth) = (task.draw(count, generator) for count in task.samples)
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(task.widths, task.widths[1:], strict=False):
        layer = nn.Linear(fan_in, fan_out)
        layer.weight.data = task.initialise(fan_in, fan_out, generator)
        layer.bias.data = common(fan_in, fan_out, generator)[:, 0].clone()
        layers += [layer, module()]
    model = nn.Sequential(*layers if task.ends else layers[:-1])
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[task.optimizer]
    optimizer = kind(model.parameters(), lr=task.rate)
    context: AbstractContextManager[object] = nullcontext()
    after: Callable[[float], object] = lambda loss: None  # noqa: E731
    if patched is not None:
        context = patch = patched(model)
        after = scheduled(patch)
    best = math.inf
    with context:
        for _ in range(task.epochs):
            order = torch.randperm(inputs.shape[1], generator=generator)
            losses = []
            for part in order.split(task.batch_size):
                if len(part) < task.batch_size:
                    continue
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(inputs[:, part].T), targets[:, part].T)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            after(sum(losses) / len(losses))
            with torch.no_grad():
                best = min(best, nn.functional.mse_loss(model(unseen.T), truth.T).item())
    return torch.tensor(best)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """In float64 a difference is a mistake, not another order of a sum."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def agree(task: Task, *how: object) -> None:
    together = train(task, range(4))
    one_by_one = torch.stack([alone(task, seed, *how) for seed in range(4)])  # type: ignore[arg-type]
    torch.testing.assert_close(together, one_by_one, rtol=1e-9, atol=1e-12)
    assert len(set(together.tolist())) == 4, "each run has data of its own"


AD = derivative("relu-logistic", {"k": 3.5, "selective": False})


@pytest.mark.parametrize("initialise", [common, he, xavier])
@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.01), ("sgd", 0.1)])
def test_relu(initialise: Callable[..., Tensor], optimizer: str, rate: float) -> None:
    changes = {"initialise": initialise, "optimizer": optimizer, "rate": rate}
    agree(task(Activation(AD, handover=Never), **changes), nn.ReLU)


def test_sigmoid_after_the_last_layer_too() -> None:
    activation = Activation(derivative("sigmoid-min", {}), handover=Never)
    agree(task(activation, ends=True), nn.Sigmoid)


def test_operators_with_arguments_of_their_own() -> None:
    kind = derivative("leaky-relu-logistic", {})
    activation = Activation(kind, {"negative_slope": 0.2}, Never)
    agree(task(activation), lambda: nn.LeakyReLU(0.2))


@pytest.mark.parametrize(
    ("name", "parameters", "module"),
    [
        ("relu-logistic", {"k": 3.5, "selective": False}, nn.ReLU),
        ("relu-logistic", {"k": 1.0, "selective": True}, nn.ReLU),
        ("relu-leaky", {"slope": 0.1}, nn.ReLU),
        ("sigmoid-min", {}, nn.Sigmoid),
    ],
)
def test_artificial_derivatives(
    name: str, parameters: dict[str, float], module: Callable[[], nn.Module]
) -> None:
    # Of layers of two units some are dead in a batch: selective is then neither all nor none.
    patched = partial(replace_derivative, derivative=name, **parameters)
    agree(task(Activation(derivative(name, parameters))), module, patched)


class Reached(AbstractContextManager["Reached"]):
    """A model of one run with an ensemble's derivative, handed over as the ensemble's is."""

    def __init__(self, activation: Activation, model: nn.Module) -> None:
        self.reached = reach(model, [("*", activation.derivative)])
        self.handover = activation.handover(1)
        self.set()

    def set(self) -> None:
        strength = 0.0 if self.handover.uses == "none" else self.handover.strength
        for setting in self.reached.settings:
            setting.set(strength)

    def step(self, loss: float) -> None:
        self.handover.step(torch.tensor([loss]))
        self.set()

    def __exit__(self, *error: object) -> None:
        self.reached()


def agrees_with_autograd(task: Task) -> None:
    """At a rate at which losses rise, too, on few samples of what is drawn for the paper."""
    few = replace(task, samples=(240, 60), rate=10 * task.rate)
    activation = few.activation
    module = partial(activation.derivative.native, **activation.arguments)
    agree(few, module, partial(Reached, activation), lambda reached: reached.step)


RELU_ARMS = paper_relu.ARMS | paper_relu.CONVERTING


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("arm", RELU_ARMS)
def test_the_arms_of_table_2(name: str, arm: str) -> None:
    rate = paper_relu.RATES[name]
    agrees_with_autograd(paper_relu.task(name, 4, RELU_ARMS[arm], rate, EPOCHS))


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("arm", paper_sigmoid.ARMS)
def test_the_arms_of_table_4(name: str, arm: str) -> None:
    activation, rate = paper_sigmoid.ARMS[arm], paper_sigmoid.RATES[name]
    agrees_with_autograd(paper_sigmoid.task(name, "Xavier", 3, activation, rate, EPOCHS))


@pytest.mark.parametrize(
    ("of", "candidate"),
    [(of, each) for of, found in search.CANDIDATES.items() for each in found],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_candidates_of_the_search(of: str, candidate: search.Candidate) -> None:
    # One network of each set; their derivatives are tried on all of a table's networks.
    tasks = search.tasks(of, candidate, EPOCHS)
    for cell in {"ReLU": ("A4", "B4"), "sigmoid": ("A12", "B4")}[of]:
        agrees_with_autograd(tasks[cell])


def test_annealing() -> None:
    activation = Activation(AD, handover=partial(Annealed, epochs=4))

    def scheduled(patch: Patch) -> Callable[[float], object]:
        annealing = Annealing(patch, steps=4)
        return lambda loss: annealing.step()

    patched = partial(replace_derivative, derivative="relu-logistic", k=3.5, selective=False)
    agree(task(activation), nn.ReLU, patched, scheduled)


def test_each_run_converts_by_itself() -> None:
    # A rate at which losses rise now and then, so that runs change over at different epochs.
    changed = task(Activation(AD, handover=partial(Converting, factor=1.001)), rate=0.2)
    patched = partial(replace_derivative, derivative="relu-logistic", k=3.5, selective=False)
    agree(changed, nn.ReLU, patched, lambda patch: Conversion(patch, factor=1.001).step)
    always = train(replace(changed, activation=Activation(AD)), range(4))
    assert not torch.equal(train(changed, range(4)), always)


def test_who_converts_and_who_may_change_back() -> None:
    losses = [[1.0, 1.0], [1.02, 1.2], [0.9, 1.2], [2.0, 1.0]]
    seen: dict[str, list[list[bool]]] = {}
    for name, handover in {
        "back": Converting(2),
        "once": Converting(2, back=False),
        "true first": Converting(2, artificial_first=False),
    }.items():
        seen[name] = []
        for each in losses:
            handover.step(torch.tensor(each))
            seen[name].append(handover.artificial.tolist())
    assert seen["back"] == [[True, True], [True, False], [True, True], [False, True]]
    assert seen["once"] == [[True, True], [True, False], [True, False], [False, False]]
    assert seen["true first"] == [[not a, not b] for a, b in seen["back"]]


def test_a_handover_knows_how_many_use_the_artificial_derivative() -> None:
    handover = Handover(2)
    assert handover.uses == "all"
    handover.use(torch.tensor([True, False]))
    assert handover.uses == "some"
    assert Never(2).uses == "none"


def test_a_run_that_diverges_leaves_the_others_alone() -> None:
    linear = Activation(derivative("leaky-relu-logistic", {}), {"negative_slope": 1.0}, Never)

    def large(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = draw(count, generator)
        return (x * 1e6, y) if generator.initial_seed() == 1 else (x, y)

    calm = task(linear, optimizer="sgd", rate=0.1)
    mixed = train(replace(calm, draw=large), range(3))
    expected = train(calm, range(3))
    assert torch.equal(mixed[[0, 2]], expected[[0, 2]])
    assert mixed[1] > 1e6
