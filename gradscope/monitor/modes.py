"""What else listens to torch's calls: modes on its stacks, and tracers."""

from __future__ import annotations

import torch
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)

__all__ = ["taken_off", "traced"]


def taken_off(mode: TorchFunctionMode) -> bool:
    """Takes a mode off whose block was left by what passes no hook, such as Ctrl-C.

    Returns:
        Whether it was there: while a mode handles a call, torch has it aside.
    """
    if mode not in _get_current_function_mode_stack():
        return False
    above = []
    while (top := _pop_mode()) is not mode:
        above.append(top)
    for each in reversed(above):
        _push_mode(each)
    return True


def traced() -> bool:
    """Whether somebody writes down what is computed, who is not to see what is measured."""
    tracing = torch._C._get_tracing_state() is not None
    return tracing or torch._C._len_torch_dispatch_stack() > 0
