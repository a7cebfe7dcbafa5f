"""Runs the user's code; whatever it raises becomes one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from gradscope import lessons
from gradscope.batches import Batch, described
from gradscope.errors import GradscopeError, ModelError, SubjectError

__all__ = [
    "BuildOptimizer",
    "backward",
    "call",
    "checked_loss",
    "checked_step",
    "make_optimizer",
    "no_batch",
    "one_line",
    "refuse_lazy",
    "update",
]

T = TypeVar("T")

_BY_HAND = (
    "Call the model and the loss by hand with one batch to see where (--debug shows the traceback)."
)

# Also sys.exit() in the user's code: its status must not become ours.
_FAILURES = (Exception, SystemExit)

BuildOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def one_line(error: BaseException) -> str:
    """An exception as type and message on one line, without the final full stop."""
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called"
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def call(function: Callable[..., T], *arguments: Any, where: str) -> T:
    """Calls a function of the user's.

    Raises:
        ModelError: it raised; ``where`` names it.
    """
    try:
        return function(*arguments)
    except GradscopeError:
        raise
    except _FAILURES as error:
        raise ModelError(f"{where} raised {one_line(error)}.") from error


def checked_loss(loss: Callable[[Any, Batch], Tensor], output: Any, batch: Batch) -> Tensor:
    """The loss of an output.

    Raises:
        ModelError: it raised.
    """
    try:
        return loss(output, batch)
    except GradscopeError:
        raise
    except _FAILURES as error:
        advice = lessons.of_loss(error, output, batch) or _BY_HAND
        raise ModelError(
            f"loss(output, batch) failed on an output of {described(output)} and a batch of "
            f"{described(batch)}: {one_line(error)}. {advice}"
        ) from error


def checked_step(
    step: Callable[[nn.Module, Batch], Tensor],
) -> Callable[[nn.Module, Batch], Tensor]:
    """The same step; what it raises becomes a ModelError, and its result is a real scalar."""

    def checked(model: nn.Module, batch: Batch) -> Tensor:
        try:
            value = step(model, batch)
        except GradscopeError:
            raise
        except _FAILURES as error:
            advice = lessons.of_model(error, model, batch) or _BY_HAND
            raise ModelError(
                f"{type(model).__name__} failed on a batch of {described(batch)}: "
                f"{one_line(error)}. {advice}"
            ) from error
        if not isinstance(value, Tensor):
            raise ModelError(
                f"The loss is a {type(value).__name__}, not a tensor; return the scalar tensor "
                "that backward() is called on, without .item() or float()."
            )
        if value.numel() != 1:
            raise ModelError(
                f"The loss has shape {tuple(value.shape)}, not a scalar; reduce it, "
                "for instance with .mean(), or reduction='mean' of torch's losses."
            )
        if value.is_complex() or not value.is_floating_point():
            raise ModelError(
                f"The loss has type {value.dtype}; a gradient needs a real floating-point loss."
            )
        return value

    return checked


def backward(loss: Tensor, model: nn.Module) -> None:
    """The backward pass.

    Raises:
        ModelError: it failed.
    """
    try:
        loss.backward()
    except GradscopeError:
        raise
    except _FAILURES as error:
        raise ModelError(
            f"The backward pass of {type(model).__name__} failed: {one_line(error)}."
        ) from error


def no_batch(name: str) -> ModelError:
    """What is wrong with data that nothing came out of."""
    return ModelError(
        f"The data of {name} holds no batch: build_data() is called again and again and has to "
        "return batches each time, as a list or a DataLoader; an iterator that was made once is "
        "spent after one pass."
    )


def refuse_lazy(model: nn.Module) -> None:
    """Refuses a model whose layers wait for a first batch to get their weights.

    Raises:
        ModelError: some do.
    """
    if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
        raise ModelError(
            f"{type(model).__name__} has lazy layers without weights yet; pass one batch through "
            "it first, for instance at the end of build_model()."
        )


def make_optimizer(build: BuildOptimizer, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The user's optimizer.

    Raises:
        ModelError: making it failed, or it needs to evaluate the loss by itself.
        SubjectError: it is no optimizer.
    """
    optimizer = call(build, parameters, where="build_optimizer()")
    if not isinstance(optimizer, Optimizer):
        raise SubjectError(
            f"build_optimizer() returned a {type(optimizer).__name__}; it must return a "
            "torch.optim.Optimizer."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ModelError(
            "LBFGS evaluates the loss several times a step through a closure, which is not "
            "supported; give another optimizer in build_optimizer()."
        )
    return optimizer


def update(optimizer: Optimizer) -> None:
    """One optimizer step.

    Raises:
        ModelError: it failed.
    """
    call(optimizer.step, where=f"{type(optimizer).__name__}.step()")
