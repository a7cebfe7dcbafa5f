"""The bit-by-bit check catches what it is there to catch, and leaves the model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope import registry
from gradscope.invariants import check_invariants
from gradscope.records import Change, Plan, Prescription
from gradscope.remedies import Remedy, Undo
from gradscope.rules.subjects import perceptron

BATCH = (torch.randn(16, 32), torch.randint(0, 10, (16,)))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
    )


class Act(Remedy):
    """A remedy that does what it is told to, and claims what it is told to claim."""

    name = "act"
    treats = ("GS101",)

    def __init__(self, change: Change, act: Callable[[nn.Module], Undo]) -> None:
        self.changes = (change,)  # type: ignore[misc]
        self._act = act

    def propose(self, *_: Any) -> list[Any]:
        return []

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        return self._act(model)


def checked(
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[nn.Module], Undo],
    change: Change = Change.BACKWARD,
) -> dict[str, bool]:
    monkeypatch.setattr(registry, "remedies", lambda: {"act": Act(change, act)})
    plan = Plan((Prescription("act", (change,), ("0",), {}, "GS101", "a test"),))
    return {one.name: one.held for one in check_invariants(model(), plan, step, BATCH)}


def weights_nudged(model: nn.Module) -> Undo:
    weight = next(model.parameters())
    old = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))

    def undo() -> None:
        with torch.no_grad():
            weight.copy_(old)

    return undo


def never_undone(model: nn.Module) -> Undo:
    weights_nudged(model)
    return lambda: None


def hooked(model: nn.Module) -> Undo:
    """Changes the output in train mode only."""
    handle = model.register_forward_hook(
        lambda module, _, output: output + 1e-3 if module.training else output
    )
    return handle.remove


def replaced(model: nn.Module) -> Undo:
    assert isinstance(model, nn.Sequential)
    model[2] = nn.ReLU6()
    return lambda: None


def buffer_changed(model: nn.Module) -> Undo:
    assert isinstance(model, nn.Sequential)
    tracked = model[1].num_batches_tracked
    assert isinstance(tracked, Tensor)
    tracked += 1

    def undo() -> None:
        nonlocal tracked
        tracked -= 1

    return undo


def test_doing_nothing_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked(monkeypatch, lambda model: lambda: None)
    assert len(found) == 4
    assert all(found.values())


def test_one_bit_of_a_weight_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked(monkeypatch, weights_nudged)
    assert not found["state_dict bit-equal after patching"]
    assert found["undo restores outputs, weights and modules"]


def test_a_buffer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not checked(monkeypatch, buffer_changed)["state_dict bit-equal after patching"]


def test_both_modes_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked(monkeypatch, hooked)
    assert not found["outputs (train) bit-equal after patching"]
    assert found["outputs (eval) bit-equal after patching"]


@pytest.mark.parametrize("act", [never_undone, replaced])
def test_what_is_not_undone_is_seen(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[nn.Module], Undo]
) -> None:
    found = checked(monkeypatch, act, Change.STRUCTURE)
    assert found == {"undo restores outputs, weights and modules": False}


def test_a_real_plan_holds_and_leaves_no_trace() -> None:
    subject = model().eval()
    subject[0].weight.grad = torch.ones(32, 32)  # type: ignore[union-attr]
    before = {key: value.clone() for key, value in subject.state_dict().items()}
    state = torch.get_rng_state()
    parameters: dict[str, str | float] = {
        "derivative": "relu-logistic",
        "k": 3.5,
        "selective": False,
    }
    plan = Plan(
        (
            Prescription(
                "artificial-derivative", (Change.BACKWARD,), ("2",), parameters, "GS201", "a test"
            ),
        )
    )
    assert all(one.held for one in check_invariants(subject, plan, step, BATCH))
    assert all(torch.equal(value, before[key]) for key, value in subject.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in subject.modules())
    assert torch.equal(subject[0].weight.grad, torch.ones(32, 32))  # type: ignore[arg-type, union-attr]
    assert type(subject[2]) is nn.ReLU


def test_a_step_that_raises_leaves_the_plan_undone() -> None:
    subject = perceptron(nn.ReLU, layers=1)
    calls = 0

    def failing(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("now")
        return step(model, batch)

    plan = Plan(
        (
            Prescription(
                "artificial-derivative",
                (Change.BACKWARD,),
                ("1",),
                {"derivative": "relu-logistic"},
                "",
                "",
            ),
        )
    )
    with pytest.raises(RuntimeError, match="now"):
        check_invariants(subject, plan, failing, BATCH)
    assert type(subject[1]) is nn.ReLU


def test_outputs_that_are_nan_are_equal_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan()

    def nan(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return step(model, batch) * float("nan")

    assert all(one.held for one in check_invariants(model(), plan, nan, BATCH))
