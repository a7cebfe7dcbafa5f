"""Reads every call of torch's functions and tensor methods while a model runs."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, Protocol

from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Calls", "Listener"]


def _see_through(function: Any) -> Callable[..., Any]:
    """The same function without its first question, whether a mode wants to handle it whole.

    A mode that handles a function of Python's does not see the calls inside it; of this one it
    handles them one by one.
    """
    blind = {**function.__globals__, "has_torch_function": lambda *_: False}
    twin = FunctionType(
        function.__code__, blind, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


_MADE_OF_CALLS: dict[Any, Callable[..., Any]] = {
    functional.multi_head_attention_forward: _see_through(functional.multi_head_attention_forward)
}


class Listener(Protocol):
    """Who is told of calls."""

    def before_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What to remember of a call that is about to be made."""

    def after_call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, noted: Any
    ) -> None:
        """The call returned ``out``; ``noted`` is what ``before_call`` returned."""


class Calls(TorchFunctionMode):
    """While it is entered, ``listener`` is told of each call, and nothing else is changed."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            # An attribute, such as x.T: its name is that of the descriptor.
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        noted = self._listener.before_call(name, args, kwargs)
        twin = _MADE_OF_CALLS.get(func) if isinstance(func, FunctionType) else None
        if twin is not None:
            with self:
                out = twin(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        self._listener.after_call(name, args, kwargs, out, noted)
        return out
