"""Time spent in code that watches a training, taken from outside of it.

Every way in that torch offers for such code is replaced by one that wraps what is registered, so
that no arm of ``bench_monitor.py`` is measured by its own word. ``install`` has to run before the
watching code is imported.

It does not see what torch itself does more because a hook is there: the slower call of a module,
a node of the graph more, the dispatch of a function mode. The ratio of step times holds these.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]

# By name: the packages do not offer these modules as attributes.
_MODULES = importlib.import_module("torch.nn.modules.module")
_OPTIMIZERS = importlib.import_module("torch.optim.optimizer")

_WAYS_IN: tuple[tuple[Any, str], ...] = (
    (_MODULES, "register_module_forward_hook"),
    (_MODULES, "register_module_forward_pre_hook"),
    (_MODULES, "register_module_full_backward_hook"),
    (_MODULES, "register_module_full_backward_pre_hook"),
    (_OPTIMIZERS, "register_optimizer_step_pre_hook"),
    (_OPTIMIZERS, "register_optimizer_step_post_hook"),
    (nn.Module, "register_forward_hook"),
    (nn.Module, "register_forward_pre_hook"),
    (nn.Module, "register_full_backward_hook"),
    (nn.Module, "register_full_backward_pre_hook"),
    (torch.Tensor, "register_hook"),
    (torch.Tensor, "register_post_accumulate_grad_hook"),
    (Optimizer, "register_step_pre_hook"),
    (Optimizer, "register_step_post_hook"),
)


class Meter:
    """Adds up the time spent inside, of nested calls that of the outermost.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._start = 0.0

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._start = perf_counter()

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self.seconds += perf_counter() - self._start

    def timed(self, function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapper

    def without(self, function: Function) -> Function:
        """The function, of which the time is not counted: what a mode passes on is the model's."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            depth, self._depth = self._depth, 0
            self.seconds += perf_counter() - self._start
            try:
                return function(*args, **kwargs)
            finally:
                self._depth, self._start = depth, perf_counter()

        return wrapper


_meters: list[Meter] = []


@contextmanager
def metering(meter: Meter) -> Iterator[None]:
    """What is registered meanwhile is counted by the meter, for as long as it stays."""
    _meters.append(meter)
    try:
        yield
    finally:
        _meters.pop()


def install() -> None:
    """Replaces the ways in, once and for the process."""
    for owner, name in _WAYS_IN:
        setattr(owner, name, _wrapping(getattr(owner, name), on_object=isinstance(owner, type)))


def watch_modes(package: str) -> None:
    """Has the function modes of an imported package counted, too."""
    for mode in TorchFunctionMode.__subclasses__():
        if mode.__module__.partition(".")[0] == package:
            mode.__torch_function__ = _counting(mode.__torch_function__)  # type: ignore[method-assign]


def _wrapping(register: Function, *, on_object: bool) -> Function:
    place = 1 if on_object else 0

    @functools.wraps(register)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if _meters:
            timed = _meters[-1].timed
            if "hook" in kwargs:
                kwargs["hook"] = timed(kwargs["hook"])
            else:
                args = (*args[:place], timed(args[place]), *args[place + 1 :])
        return register(*args, **kwargs)

    return wrapper


def _counting(function: Function) -> Function:
    @functools.wraps(function)
    def wrapper(self: TorchFunctionMode, func: Function, *args: Any, **kwargs: Any) -> Any:
        if not _meters:
            return function(self, func, *args, **kwargs)
        meter = _meters[-1]
        with meter:
            return function(self, meter.without(func), *args, **kwargs)

    return wrapper
