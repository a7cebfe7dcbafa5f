"""What is set from data: done on the first batch that a module sees, then never again.

A plan is carried out without data, and again on other weights; what depends on data has to wait for
it. Salimans and Kingma 2016 (Weight normalization), section 3, initialise so. The pass that it
happens in already uses what was set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["on_first_batch"]

SetFrom = Callable[[nn.Module, Tensor], None]


class _FirstBatch:
    """A forward pre-hook that works once."""

    def __init__(self, set_from: SetFrom) -> None:
        self._set_from = set_from

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not arguments or not isinstance(arguments[0], Tensor) or not arguments[0].numel():
            return
        _remove(module, self)
        with torch.no_grad():
            self._set_from(module, arguments[0].detach())

    def loaded(self, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Weights that are loaded were set from data once, and must not be again."""
        if f"{prefix}weight" in state:
            module._forward_pre_hooks.pop(_key(module._forward_pre_hooks, self), None)


def on_first_batch(module: nn.Module, set_from: SetFrom) -> Callable[[], None]:
    """Has ``set_from(module, input)`` called before the module's first forward pass.

    It runs without gradients and may write to the module's parameters and buffers. Where the model
    is passed batches on trial and put back afterwards, it waits for the next first one. Where the
    module's weight is loaded from a ``state_dict`` before that, it is called off.

    Returns:
        What calls it off.
    """
    hook = _FirstBatch(set_from)
    module.register_forward_pre_hook(hook)
    module.register_load_state_dict_pre_hook(hook.loaded)
    return lambda: _remove(module, hook)


def _remove(module: nn.Module, hook: _FirstBatch) -> None:
    module._forward_pre_hooks.pop(_key(module._forward_pre_hooks, hook), None)
    loading = module._load_state_dict_pre_hooks
    wrapped = {key: getattr(each, "hook", None) for key, each in loading.items()}
    loading.pop(_key(wrapped, hook.loaded), None)


def _key(hooks: Mapping[int, object], hook: object) -> int:
    """Under which number a hook stands; -1 where it stands under none."""
    return next((key for key, each in hooks.items() if each == hook), -1)
