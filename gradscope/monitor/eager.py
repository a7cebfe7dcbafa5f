"""Has compiled code run as it was written, for the steps on which hooks have to see it.

The compiler's stance belongs to the process: several monitors wear it together, and what anybody
else makes of it meanwhile is held back, and stands afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Eager", "compiler_in_use"]


class Eager:
    """One monitor's wish that nothing is compiled for now."""

    def put_on(self) -> None:
        """From now on ``torch.compile`` is ignored; put on before any hook."""
        if not _wearers:
            _put_on()
        _wearers.add(self)

    def take_off(self) -> None:
        """Compiled code runs compiled again, unless another monitor wishes otherwise."""
        if self in _wearers:
            _wearers.discard(self)
            if not _wearers:
                while _undo:
                    _undo.pop()()


_wearers: set[Eager] = set()
_undo: list[Callable[[], None]] = []


def _put_on() -> None:
    stance = torch.compiler.set_stance("force_eager")
    _undo.append(lambda: stance.__exit__(None, None, None))
    _hold_others(stance)
    # A compiled module warns of hooks that all modules share: it is not to hear of ours.
    modules: Any = torch.nn.modules.module
    asked = getattr(modules, "_has_any_global_hook", None)
    if asked is not None:
        others = asked()
        _replace(modules, "_has_any_global_hook", lambda: others)


def _hold_others(ours: Any) -> None:
    """Has stances that are set from now on wait until ours is taken off.

    One that is set in the midst of a sampled step, as on entering a block of code, would have
    compiled code meet our hooks; and the end of that block would put ours back for good.
    """
    dynamo: Any = torch._dynamo.decorators
    if not hasattr(dynamo, "_set_stance"):
        return

    def hold(stance: Any) -> Any:
        before, ours.prev = ours.prev, stance
        return before

    _replace(dynamo, "_set_stance", hold)


def _replace(module: Any, name: str, value: Any) -> None:
    original = getattr(module, name)
    setattr(module, name, value)
    _undo.append(lambda: setattr(module, name, original))


def compiler_in_use() -> bool:
    """Whether ``torch.compile`` has been at work in this process."""
    frames = sys.modules.get("torch._dynamo.convert_frame")
    return frames is not None and bool(getattr(frames, "FRAME_COUNTER", 1))
