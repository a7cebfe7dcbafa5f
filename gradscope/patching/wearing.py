"""Modules that wear a patch: their class becomes a subclass that knows what is patched in them.

The module keeps its identity, name, hooks, keys and place; ``isinstance`` and ``super()`` hold; it
pickles and deep-copies; and undoing is putting the class back. See decision 24.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode, _pop_mode_temporarily

from gradscope.errors import PlanError
from gradscope.patching.calls import CallMode, asleep
from gradscope.patching.functions import functions_of
from gradscope.patching.setting import Setting
from gradscope.patching.tally import Tally

__all__ = ["Entry", "Wearing", "Wiring", "take_off", "unworn", "wear"]


@dataclass
class Entry:
    """One patched use of a module, or of a function in it; or all of them.

    Attributes:
        operator: what is computed, such as ``relu``.
        use: which use in a forward pass of the model, from 0; None for every one.
        setting: what stands there.
    """

    operator: str
    use: int | None
    setting: Setting

    def __post_init__(self) -> None:
        functions_of(self.operator)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In the process that a copy arrives in, nobody may have asked for these functions.
        self.__dict__.update(state)
        functions_of(self.operator)


@dataclass
class Wiring:
    """What is patched in one module.

    Attributes:
        name: of the module in the model.
        tally: counts uses; None while no single use is patched.
        own: entries of the module itself, where it is an activation. Keys are unlike wherever
            derivatives are: a compiler that sees another number at the same place takes it for a
            variable.
        calls: entries of calls in its forward, as ``own``.
        inner: the ``forward`` that the module itself had, apart from its class.
        holders: how many patches have it worn.
    """

    name: str
    tally: Tally | None = None
    own: dict[str, Entry] = field(default_factory=dict)
    calls: dict[str, Entry] = field(default_factory=dict)
    inner: Callable[..., Any] | None = None
    holders: int = 0


class Wearing(nn.Module):
    """Goes before a module's class; without a wiring it does nothing."""

    _gradscope: Wiring | None = None

    def __init_subclass__(cls) -> None:
        """Keeps from a class that registers its subclasses that it has got another one."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, Wearing):
            # Looked up before it was taken off, or before a lazy module changed its class.
            return type(self).forward(self, *args, **kwargs)
        wiring = self._gradscope
        if wiring is None:
            return super().forward(*args, **kwargs)
        tally = wiring.tally
        if not torch.is_grad_enabled() and (tally is None or not tally.running()):
            return self._untouched(wiring, args, kwargs)
        opened = None if tally is None else tally.open()
        try:
            # What a module calls is no call of the module's around it.
            if isinstance(_get_current_function_mode(), CallMode):
                with _pop_mode_temporarily():
                    return self._patched(wiring, args, kwargs)
            if not torch.compiler.is_compiling():
                with asleep():
                    return self._patched(wiring, args, kwargs)
            return self._patched(wiring, args, kwargs)
        finally:
            if tally is not None and opened is not None:
                tally.close(opened)

    def _patched(self, wiring: Wiring, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if wiring.own:
            x = args[0] if args else kwargs["input"]
            entry = _chosen(wiring, x) if x.is_floating_point() else None
            if entry is None or not torch.is_grad_enabled():
                return self._untouched(wiring, args, kwargs)
            arguments = {name: getattr(self, name) for name in entry.setting.derivative.arguments}
            return entry.setting(x, getattr(self, "inplace", False), arguments)
        if wiring.calls and not self._needs_no_gradient((*args, *kwargs.values())):
            with CallMode(wiring.calls, wiring.name, wiring.tally):
                return self._untouched(wiring, args, kwargs)
        return self._untouched(wiring, args, kwargs)

    def _untouched(self, wiring: Wiring, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if wiring.inner is not None:
            return wiring.inner(*args, **kwargs)
        return super().forward(*args, **kwargs)

    def _needs_no_gradient(self, args: tuple[Any, ...]) -> bool:
        """Whether an encoder layer may run fused, which it does not under a function mode.

        That is in eval mode, where nothing asks for a gradient; so there is none to replace.
        """
        if not isinstance(self, nn.TransformerEncoderLayer) or self.training:
            return False
        asked = torch.is_grad_enabled() and (
            any(each.requires_grad for each in self.parameters())
            or any(isinstance(each, Tensor) and each.requires_grad for each in args)
        )
        return not asked

    def extra_repr(self) -> str:
        wiring = self._gradscope
        said = [super().extra_repr()]
        if wiring is not None:
            said += [repr(entry.setting.derivative) for entry in wiring.own.values()]
            said += [
                f"{entry.operator}{'' if entry.use is None else f'@{entry.use}'}: "
                f"{entry.setting.derivative!r}"
                for entry in wiring.calls.values()
            ]
        return ", ".join(filter(None, said))

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(protocol)
        if reduced[0] is copyreg.__newobj__ and reduced[1][0] is type(self):  # type: ignore[attr-defined]
            return (_made, (type(self).__mro__[2], *reduced[1][1:]), *reduced[2:])
        return reduced


def _chosen(wiring: Wiring, x: Tensor) -> Entry | None:
    """The entry for this use of an activation module."""
    use = None
    if wiring.tally is not None and wiring.tally.running() and x.numel():
        use = wiring.tally.count(wiring.name)
    found = None
    for entry in wiring.own.values():
        # The last one that fits: it was put there last.
        if entry.use is None or entry.use == use:
            found = entry
    return None if found is None or found.setting.mixture == "true" else found


def _worn(kind: type[nn.Module]) -> type[nn.Module]:
    """The subclass that wears a patch, one for each class; it goes by the name of the class."""
    for known in type.__subclasses__(kind):
        if known.__bases__ == (Wearing, kind):
            return known
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (Wearing, kind), {**names, "forward": _forward_of(kind)})


def _forward_of(kind: type[nn.Module]) -> FunctionType:
    """What a worn class has as its forward; its signature is that of the class's own one.

    Export names inputs by it, and trainers choose the columns that they pass.
    """
    own = Wearing.forward
    forward = FunctionType(
        own.__code__, own.__globals__, own.__name__, own.__defaults__, own.__closure__
    )
    forward.__wrapped__ = kind.forward  # type: ignore[attr-defined]
    return forward


def _made(kind: type[nn.Module], *args: Any) -> nn.Module:
    """A copied or unpickled module, before its attributes are put in."""
    worn = _worn(kind)
    return worn.__new__(worn, *args)


def unworn(module: nn.Module) -> type[nn.Module]:
    """The module's class, without what it wears."""
    order = type(module).__mro__
    return order[order.index(Wearing) + 1] if Wearing in order else order[0]


def wear(module: nn.Module, name: str, tally: Tally | None) -> Wiring:
    """Makes a module wear a patch, or one more.

    Raises:
        PlanError: single uses are counted in it already, for another model around it.
    """
    wiring: Wiring | None = vars(module).get("_gradscope")
    if wiring is None:
        wiring = Wiring(name, inner=vars(module).pop("forward", None))
        vars(module)["_gradscope"] = wiring
        module.__class__ = _worn(type(module))
    elif tally is not None and wiring.tally is not None and wiring.tally is not tally:
        raise PlanError(
            f"Single uses in {name!r} are patched already, as part of another model; "
            "undo that patch first."
        )
    wiring.tally = wiring.tally or tally
    wiring.holders += 1
    return wiring


def take_off(module: nn.Module) -> None:
    """Takes one patch off; with the last one the module is what it was."""
    wiring: Wiring | None = vars(module).get("_gradscope")
    if wiring is None:
        return
    wiring.holders -= 1
    if wiring.holders:
        return
    del vars(module)["_gradscope"]
    if wiring.inner is not None:
        vars(module)["forward"] = wiring.inner
    if type(module).__mro__[1] is Wearing:
        module.__class__ = unworn(module)
