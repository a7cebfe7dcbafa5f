"""Changing what one module computes, in place: its class becomes a subclass of what it was.

The module keeps its name, its parameters and its state_dict keys. Copies and pickles work, although
the subclass is made on the spot.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from torch import nn

__all__ = ["Overlay", "lay_over", "plain_forward", "take_off"]


class Overlay:
    """Base of what is laid over a module's class; a subclass overrides ``forward``."""

    _parts: tuple[type[Overlay], type[nn.Module]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The default would look the class up by a name that no file defines.
        return _empty, type(self)._parts, self.__getstate__()


def lay_over(module: nn.Module, overlay: type[Overlay]) -> None:
    """Makes ``module`` one of ``overlay`` as well; its name says both."""
    module.__class__ = _both(overlay, type(module))  # type: ignore[arg-type]


def take_off(module: nn.Module) -> None:
    """Gives a module back the class that was laid over last."""
    module.__class__ = type(module)._parts[1]  # type: ignore[attr-defined]


def plain_forward(module: nn.Module) -> Callable[..., Any]:
    """The forward of the module's class without what is laid over it."""
    kind = next(each for each in type(module).__mro__ if not issubclass(each, Overlay))
    return partial(kind.forward, module)  # type: ignore[attr-defined]


@cache
def _both(overlay: type[Overlay], kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"{overlay.__name__}{kind.__name__}", (overlay, kind), {"_parts": (overlay, kind)})


def _empty(overlay: type[Overlay], kind: type[nn.Module]) -> nn.Module:
    made = _both(overlay, kind)  # type: ignore[arg-type]
    module: nn.Module = made.__new__(made)
    return module
