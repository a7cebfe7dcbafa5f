"""Exchanges what a model calls for recording functions while a pass runs: no hook, no mode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.reference.capture import NAMES, Capture


def places() -> Iterator[tuple[Any, str, str, bool]]:
    """Where functions live: owner, attribute, name of the function, whether it is in place."""
    for name in NAMES:
        for owner in (functional, torch, Tensor):
            for attribute in (name, f"{name}_"):
                if hasattr(owner, attribute):
                    yield owner, attribute, name, attribute.endswith("_")
    yield torch.special, "expit", "sigmoid", False
    yield torch.special, "softmax", "softmax", False
    yield torch.special, "log_softmax", "log_softmax", False
    yield Tensor, "__matmul__", "matmul", False


def takes_inplace(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    return signature if "inplace" in signature.parameters else None


def recording(capture: Capture, owner: Any, attribute: str, name: str, in_place: bool) -> Any:
    original = getattr(owner, attribute)
    base = getattr(owner, name) if in_place else original
    signature = takes_inplace(original)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        plain = base if in_place else None
        if signature is not None:
            given = signature.bind(*args, **kwargs).arguments
            if given.pop("inplace", False):
                plain = original
                x = given.pop("input")
                return capture.apply(name, original, plain, (x,), dict(given))
        return capture.apply(name, original, plain, args, kwargs)

    return wrapper


@contextmanager
def exchanged(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    was_own = attribute in vars(owner)
    old = vars(owner).get(attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if was_own:
            setattr(owner, attribute, old)
        else:
            delattr(owner, attribute)


def checkpoint_directly(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    for known in (
        "use_reentrant",
        "preserve_rng_state",
        "context_fn",
        "determinism_check",
        "debug",
    ):
        options.pop(known, None)
    return function(*args, **options)


def without_checkpoints() -> AbstractContextManager[None]:
    return exchanged(torch.utils.checkpoint, "checkpoint", checkpoint_directly)


@contextmanager
def capturing(model: nn.Module) -> Iterator[Capture]:
    """Inside, everything that the model does is seen."""
    capture = Capture(model)
    call = nn.Module.__call__

    def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return capture.call(call, module, *args, **kwargs)

    with ExitStack() as stack:
        replaced: dict[Any, Any] = {}
        wrappers = [
            (owner, attribute, recording(capture, owner, attribute, name, in_place))
            for owner, attribute, name, in_place in places()
        ]
        for owner, attribute, wrapper in wrappers:
            if owner is not Tensor:
                replaced[getattr(owner, attribute)] = wrapper
        for owner, attribute, wrapper in wrappers:
            stack.enter_context(exchanged(owner, attribute, wrapper))
        stack.enter_context(exchanged(nn.Module, "__call__", called))
        stack.enter_context(without_checkpoints())
        # What a module has stored of torch's functions, such as TransformerEncoderLayer's.
        for module in model.modules():
            for attribute, value in list(vars(module).items()):
                is_function = inspect.isbuiltin(value) or inspect.isfunction(value)
                if is_function and value in replaced:
                    stack.enter_context(exchanged(module, attribute, replaced[value]))
        yield capture
