"""Models, data and losses that fail: one clear sentence that names the thing, never a raw error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.errors import GradscopeError, ModelError, SubjectError, UsageError
from gradscope.subject import Subject


def dead() -> nn.Sequential:
    """Most units of its activation are dead, so that there is something to repair."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].bias[:7] = -100
    return model


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(5, 512, 4, generator=generator)
    return [(x, x[:, :2]) for x in inputs]


def squared(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (output - batch[1]).square().mean()


def subject(
    model: nn.Module | None = None,
    data: Any = None,
    loss: Callable[[Any, Any], Any] = squared,
    **more: Any,
) -> Subject:
    return Subject.of(model or dead(), batches() if data is None else data, loss, **more)


def failure(act: Callable[[Subject], object], examined: Subject) -> str:
    with pytest.raises(GradscopeError) as caught:
        act(examined)
    assert caught.value.exit_status in (2, 3)
    message = str(caught.value)
    assert "\n" not in message
    assert ".." not in message.replace("...", "")
    assert "GradscopeError" not in message
    assert "ModelError" not in message
    return message


def fix(examined: Subject) -> object:
    return gradscope.fix(examined, budget=0.1, only=["artificial-derivative"], seeds=5)


BOTH = pytest.mark.parametrize("act", [gradscope.scan, fix])


# --- Data -------------------------------------------------------------------------------------


def raising() -> Iterator[Any]:
    yield batches()[0]
    raise OSError("disk gone")


DATA = [
    ([], ["The data holds no batch", "build_data() must yield at least one"]),
    (iter(()), ["The data holds no batch"]),
    (raising(), ["The data raised OSError at batch 1: disk gone"]),
    (7, ["The data raised TypeError at batch 0", "'int' object is not iterable"]),
    ([(torch.zeros(0, 4), 1)], ["Batch 0 of the data holds no sample", "at least two"]),
    (
        [batches()[0], (torch.zeros(0, 4), 1)],
        ["Batch 1 of the data holds no sample"],
    ),
    ([torch.zeros(3, 5)], ["Sequential failed on a batch of shape 3x5", "mat1 and mat2"]),
    ([torch.zeros(3, 4, dtype=torch.long)], ["Sequential failed", "dtype"]),
    (["text"], ["Sequential failed on a batch of type str"]),
    ([{"inputs": torch.zeros(3, 4)}], ["Sequential failed", "inputs"]),
]


@pytest.mark.parametrize(("data", "words"), DATA, ids=[words[0] for _, words in DATA])
def test_bad_data(data: Any, words: list[str]) -> None:
    message = failure(gradscope.scan, subject(data=data))
    for word in words:
        assert word in message


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Any) -> Tensor:
        return self.linear(x["features"])  # type: ignore[no-any-return]


def test_no_data_where_none_can_be_made_up() -> None:
    for act in (gradscope.scan, fix):
        message = failure(act, Subject.of(Keyed(), None, squared, name="my model"))
        assert message.startswith("No inputs that were made up pass Keyed (the first raised ")
        assert message.endswith(
            "give --data FILE.py:NAME or --input-shape (from Python: batches=)."
        )


def test_data_that_can_be_gone_through_only_once() -> None:
    """Enough for a scan; a repair trains again and again, and says that it cannot."""
    assert gradscope.scan(subject(data=iter(batches()))).findings
    message = failure(fix, subject(data=iter(batches())))
    assert "once" in message or "again" in message


# --- Model ------------------------------------------------------------------------------------


class Raises(nn.Module):
    def __init__(self, error: Exception, modes: tuple[bool, ...] = (True, False)) -> None:
        super().__init__()
        self.layers, self.error, self.modes = dead(), error, modes

    def forward(self, x: Tensor) -> Tensor:
        if self.training in self.modes:
            raise self.error
        return self.layers(x)  # type: ignore[no-any-return]


@BOTH
@pytest.mark.parametrize(
    "error", [ValueError("bad mask"), KeyError("mask"), RuntimeError("first line\n\nsecond mask.")]
)
def test_a_forward_that_raises(act: Callable[[Subject], object], error: Exception) -> None:
    message = failure(act, subject(Raises(error)))
    assert message.startswith("Raises failed on a batch of shape 512x4, 512x2: ")
    assert type(error).__name__ in message
    assert "mask" in message
    assert "with one batch" in message


def test_a_forward_that_raises_in_eval_mode_alone() -> None:
    """A scan never sees it; the trials of a repair measure the model in eval mode."""
    message = failure(fix, subject(Raises(ValueError("no eval"), (False,))))
    assert "no eval" in message


class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise ValueError("no way back")


@BOTH
def test_a_backward_that_raises(act: Callable[[Subject], object]) -> None:
    message = failure(
        act, subject(loss=lambda output, batch: squared(BadBackward.apply(output), batch))
    )
    assert message.startswith("The backward pass of Sequential failed: ValueError: no way back")


class Bare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_model_without_parameters() -> None:
    message = failure(gradscope.scan, subject(Bare(), loss=lambda output, batch: output.mean()))
    assert message.startswith("Bare has no parameters, so there is nothing to train; check that")
    assert "nn.ModuleList" in message


def test_a_lazy_model_that_has_seen_no_batch() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ModelError, match=r"[Ll]azy|initiali[sz]ed"):
        gradscope.profile(model, batches(), squared)
    assert isinstance(model[0], nn.LazyLinear)
    assert model[0].has_uninitialized_params()


# --- Loss -------------------------------------------------------------------------------------


LOSSES: list[tuple[str, Callable[[Any, Any], Any], list[str]]] = [
    ("float", lambda o, b: 3.0, ["The loss is a float, not a tensor", "backward()"]),
    ("none", lambda o, b: None, ["The loss is a NoneType, not a tensor"]),
    ("matrix", lambda o, b: o, ["The loss has shape (512, 2), not a scalar", ".mean()"]),
    ("empty", lambda o, b: o[:0], ["The loss has shape (0, 2), not a scalar"]),
    ("integer", lambda o, b: o.argmax(), ["The loss has type torch.int64", "floating-point"]),
    ("complex", lambda o, b: o.mean() * 1j, ["The loss has type torch.complex64", "real"]),
    ("raises", lambda o, b: b["labels"], ["loss(output, batch) failed on an output", "TypeError"]),
]


@BOTH
@pytest.mark.parametrize(
    ("loss", "words"), [entry[1:] for entry in LOSSES], ids=[entry[0] for entry in LOSSES]
)
def test_a_bad_loss(
    act: Callable[[Subject], object], loss: Callable[[Any, Any], Any], words: list[str]
) -> None:
    message = failure(act, subject(loss=loss))
    for word in words:
        assert word in message


# --- Evaluate and optimizer -------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [None, 0.5, {}, {"accuracy": "high"}, {"accuracy": torch.zeros(3)}, {"accuracy": None}, []],
    ids=repr,
)
def test_an_evaluate_that_returns_nonsense(result: Any) -> None:
    message = failure(fix, subject(evaluate=lambda model: result, name="my model"))
    assert message.startswith("evaluate() of my model must return numbers by name, such as ")
    assert "StopIteration" not in message
    assert not message.endswith(": ")


def test_an_evaluate_that_raises() -> None:
    def failing(model: nn.Module) -> dict[str, float]:
        raise OSError("no validation set")

    message = failure(fix, subject(evaluate=failing))
    assert message.startswith("evaluate() of Sequential")
    assert "OSError: no validation set" in message


def test_an_evaluate_that_leaves_the_model_in_eval_mode_does_not_stop_training() -> None:
    modes: list[bool] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        model.eval()
        return {"accuracy": 0.5}

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        output = model(batch[0])
        if torch.is_grad_enabled():
            modes.append(model.training)
        return squared(output, batch)

    fix(replace(subject(evaluate=evaluate), step=step))
    # The check of what a repair must not change looks at both modes: four times in eval.
    assert modes.count(True) > 100
    assert modes.count(False) <= 16


def fails(parameters: Any) -> torch.optim.Optimizer:
    raise ValueError("negative learning rate")


@BOTH
@pytest.mark.parametrize(
    ("build", "word"),
    [(fails, "negative learning rate"), (torch.optim.LBFGS, "LBFGS"), (lambda p: 7, "int")],
    ids=["raises", "needs a closure", "is none"],
)
def test_an_optimizer_that_cannot_be_used(
    act: Callable[[Subject], object], build: Any, word: str
) -> None:
    message = failure(act, subject(build_optimizer=build))
    assert "optimizer" in message
    assert word in message


# --- Arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "steps"),
        ({"seeds": 4}, "at least 5"),
        ({"budget": 0}, "budget"),
        ({"budget": float("nan")}, "budget"),
        ({"only": ["magic"]}, "magic"),
        ({"select": ["GS999"]}, "GS999"),
        ({"ignore": ["nothing-like-it"]}, "nothing-like-it"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_meant(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        gradscope.fix(subject(), **arguments)
    assert caught.value.exit_status == 2
    assert words in str(caught.value)


def test_subject_and_model_errors_are_told_apart() -> None:
    assert not issubclass(SubjectError, ModelError)
    assert {SubjectError.exit_status, ModelError.exit_status, UsageError.exit_status} == {2, 3}
