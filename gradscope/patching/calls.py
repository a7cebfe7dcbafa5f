"""The function mode that a module wears whose forward calls activations as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    handle_torch_function,
)

from gradscope.patching.functions import CLAMPS, FUNCTIONS, bound
from gradscope.patching.tally import Tally
from gradscope.profile.operators import is_clamped_relu

if TYPE_CHECKING:
    from gradscope.patching.wearing import Entry

__all__ = ["CallMode", "asleep"]


class CallMode(TorchFunctionMode):
    """While it is entered, the calls of one module that a patch names are differentiated its way.

    One is made for each forward of the module, so that threads share nothing.
    """

    def __init__(self, entries: Mapping[str, Entry], name: str, tally: Tally | None) -> None:
        super().__init__()
        self.entries, self.name, self.tally = entries, name, tally
        self.asleep = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        operator = None if self.asleep else self._operator(func, args, kwargs)
        if operator is None:
            if func is Tensor.unflatten:
                # It calls super(), which dynamo follows in the method, but not in the function.
                return args[0].unflatten(*args[1:], **kwargs)
            return func(*args, **kwargs)
        x = args[0] if args else kwargs.get("input")
        entry = self._chosen(operator, x)
        if entry is None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        given = bound(entry.setting.derivative, func, args, kwargs)
        if given is None:
            return func(*args, **kwargs)
        x, inplace, arguments = given
        if torch.compiler.is_compiling() or not torch._C._len_torch_function_stack():
            return entry.setting(x, inplace, arguments)
        return self._shown(entry, x, inplace, arguments)

    def _operator(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | None:
        """Which of the operators that are patched here the function computes."""
        for entry in self.entries.values():
            if func in FUNCTIONS[entry.operator]:
                return entry.operator
            if (
                entry.operator == "relu"
                and func in CLAMPS
                and is_clamped_relu(CLAMPS[func], args, kwargs)
            ):
                return "relu"
        return None

    def _chosen(self, operator: str, x: Any) -> Entry | None:
        """The entry for this call; it is counted as a profile counts it."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return None
        use = None
        if self.tally is not None and self.tally.running():
            if not x.numel():
                return None
            use = self.tally.count(f"{self.name}::{operator}")
        found = None
        for entry in self.entries.values():
            if entry.operator == operator and (entry.use is None or entry.use == use):
                found = entry
        return None if found is None or found.setting.mixture == "true" else found

    @staticmethod
    def _shown(entry: Entry, x: Tensor, inplace: bool, arguments: dict[str, Any]) -> Any:
        """Lets the modes around see one call of the operator, as they would without the patch."""

        def differentiated(x: Tensor, **arguments: Any) -> Tensor:
            return entry.setting(x, inplace, arguments)

        differentiated.__name__ = entry.operator + ("_" if inplace else "")
        return handle_torch_function(differentiated, (x,), x, **arguments)


@contextmanager
def asleep() -> Iterator[None]:
    """Inside, modes that lie below another one let every call pass."""
    modes = [
        mode
        for mode in _get_current_function_mode_stack()
        if isinstance(mode, CallMode) and not mode.asleep
    ]
    for mode in modes:
        mode.asleep = True
    try:
        yield
    finally:
        for mode in modes:
            mode.asleep = False
