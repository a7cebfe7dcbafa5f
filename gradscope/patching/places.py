"""Names of sites: read, matched against a model, and refused where nothing can be reached.

A name says a module (``layer1.0.act``: all its uses), one use of it in a forward pass
(``layer1.0.act@1``: the second), the calls of a function in it (``layer1.0::relu``) or one of them
(``layer1.0::relu@0``). ``*``, ``?`` and ``[...]`` match as a shell's do, also dots:
``encoder.*::gelu``. A profile calls the first use of a module by the module's name alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from gradscope.derivatives import Derivative
from gradscope.errors import PlanError
from gradscope.patching.functions import ALIASES
from gradscope.patching.wearing import Wearing, unworn
from gradscope.profile.operators import is_activation
from gradscope.profile.sharding import bare
from gradscope.records import WHOLE

__all__ = ["Place", "makes_calls", "operators_of", "places_of", "stands_in"]

_LOG = logging.getLogger("gradscope.patch")

_WILD = "*?["

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)

_CALLS_NONE = frozenset({
    nn.Linear, nn.Bilinear, nn.Identity, nn.Flatten, nn.Unflatten, nn.Embedding, nn.EmbeddingBag,
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm,
    nn.RMSNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell,
    nn.Upsample, nn.PixelShuffle, nn.ZeroPad2d, nn.ReflectionPad2d,
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict,
})  # fmt: skip
"""Classes of torch's that call no activation, and care for no function mode."""

_INTERPRETED = ("InterpreterModule", "UnflattenedModule")
"""Classes, by name, whose graph is run node by node: a function mode never sees its calls."""


@dataclass(frozen=True)
class Place:
    """One thing to patch.

    Attributes:
        site: as the plan has it, for messages.
        name: of the module, as the model has it.
        module: itself.
        operator: what is computed there.
        call: whether it is called as a function in the module's forward.
        use: which use in a forward pass, from 0; None for every one.
    """

    site: str
    name: str
    module: nn.Module
    operator: str
    call: bool
    use: int | None

    @property
    def label(self) -> str:
        """The name of this site alone."""
        use = "" if self.use is None else f"@{self.use}"
        return f"{self.name}::{self.operator}{use}" if self.call else f"{self.name or WHOLE}{use}"


def operators_of(derivative: Derivative | type[Derivative]) -> tuple[str, ...]:
    """The operators that an artificial derivative can stand in for, as sites name them."""
    known = (ALIASES.get(name, name.rstrip("_")) for name in derivative.operators)
    return tuple(dict.fromkeys(known))


def makes_calls(module: nn.Module) -> bool:
    """Whether activations may be called as functions in the module's own forward."""
    kind = unworn(module)
    return not (
        (getattr(kind, "cls_to_become", None) or kind) in _CALLS_NONE
        or kind.__name__ in _INTERPRETED
        or isinstance(module, (torch.jit.ScriptModule, *_RECURRENT))
        or (is_activation(module) and _is_torchs(kind))
    )


def places_of(model: nn.Module, site: str, derivative: Derivative, asker: str) -> list[Place]:
    """What a name of a site, or a pattern of names, stands for.

    Args:
        model: without wrappers.
        site: name or pattern.
        derivative: what is to be put there.
        asker: names the remedy, and which prescription it is, in messages.

    Raises:
        PlanError: there is nothing of that name, or nothing that the derivative can stand in for.
    """
    path, is_call, call = site.partition("::")
    operators = operators_of(derivative)
    if is_call:
        operator, _, use = call.partition("@")
        wanted = [each for each in operators if fnmatchcase(each, operator)]
        if not wanted:
            raise PlanError(
                f"{asker} prescribes {derivative.name} for {site!r}; it stands in for "
                f"{', '.join(operators)}, not for {operator!r}."
            )
    else:
        path, _, use = path.partition("@")
        wanted = [*operators[:1]] or [_native(derivative).lower()]
    number = _use(use, site, asker)
    if any(sign in path for sign in _WILD):
        modules = [
            (name, module)
            for name, module in model.named_modules()
            if fnmatchcase(name, path)
            and not isinstance(module, torch.jit.ScriptModule)
            and (makes_calls(module) if is_call else stands_in(derivative, module))
        ]
        if not is_call:
            _tell_of_others(model, path, derivative)
        if not modules:
            what = "module that may call functions" if is_call else _native(derivative)
            raise PlanError(f"{asker} is prescribed for {site!r}, which matches no {what}.")
    else:
        path = "" if path == WHOLE else path
        modules = [(path, _reached(model, path, site, derivative, asker, bool(is_call)))]
    for name, module in modules:
        lazy = map(is_lazy, module.parameters(recurse=False))
        if isinstance(module, LazyModuleMixin) and any(lazy):
            raise PlanError(
                f"{asker} is prescribed for {site!r}, but {name!r} is lazy and takes another class "
                "when it is first called; pass a batch through the model before."
            )
    return [
        Place(site, name, module, operator, bool(is_call), number)
        for name, module in modules
        for operator in wanted
    ]


def _use(text: str, site: str, asker: str) -> int | None:
    if text in ("", "*"):
        return None
    if not text.isdecimal():
        raise PlanError(f"{asker} is prescribed for {site!r}; after '@' stands a number or '*'.")
    return int(text)


def stands_in(derivative: Derivative | type[Derivative], module: nn.Module) -> bool:
    """Whether the module computes what the derivative is one of, by the native forward."""
    native, kind = derivative.native, unworn(module)
    if native is None or not issubclass(kind, native) or kind.forward is not native.forward:
        return False
    # To Python, an nn.ReLU6 is an nn.Hardtanh.
    torchs = next(each for each in kind.__mro__ if _is_torchs(each))
    return (torchs is native or not _is_torchs(native)) and not _is_replaced(module)


def _is_replaced(module: nn.Module) -> bool:
    """Whether this one has another forward than its class."""
    return "forward" in vars(module) and not isinstance(module, Wearing)


def _differs(derivative: Derivative, module: nn.Module) -> bool:
    """Whether the module is of the class that is stood in for, with a forward of its own."""
    native, kind = derivative.native, unworn(module)
    if native is None or not issubclass(kind, native):
        return False
    written = not _is_torchs(kind) and kind.forward is not native.forward
    return written or _is_replaced(module)


def _tell_of_others(model: nn.Module, path: str, derivative: Derivative) -> None:
    """Names what a pattern matches and the derivative cannot stand in for, though it looks so."""
    for name, module in model.named_modules():
        if fnmatchcase(name, path) and _differs(derivative, module):
            called = _called(derivative, name, module)
            _LOG.warning(
                "%s keeps its own derivative: %s has a forward of its own.%s",
                name,
                unworn(module).__name__,
                f" If that calls {operators_of(derivative)[0]}, name {called}." if called else "",
            )


def _called(derivative: Derivative, name: str, module: nn.Module) -> str:
    """The site of what a module's forward may call in the derivative's place; else nothing."""
    operators = operators_of(derivative)
    return f"'{name}::{operators[0]}'" if operators and makes_calls(module) else ""


def _is_torchs(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith("torch.nn.modules.")


def _reached(
    model: nn.Module, name: str, site: str, derivative: Derivative, asker: str, is_call: bool
) -> nn.Module:
    """The module of that name, if it can be patched so."""
    try:
        module = bare(model.get_submodule(name))
    except AttributeError as error:
        raise PlanError(
            f"{asker} is prescribed for {site!r}, but {type(model).__name__} has no module of "
            f"the name {name!r}; the plan was made for another model."
        ) from error
    kind = unworn(module)
    beginning = f"{asker} prescribes {derivative.name} for {site!r}"
    if any(isinstance(each, torch.jit.ScriptModule) for each in (module, *_around(model, name))):
        raise PlanError(
            f"{beginning}, which is TorchScript: it runs as a whole and cannot be patched."
        )
    if isinstance(module, _RECURRENT):
        raise PlanError(
            f"{beginning}, whose gates {kind.__name__} computes in one fused call, which cannot "
            "be patched; write the cell out."
        )
    if is_call:
        if kind.__name__ in _INTERPRETED:
            raise PlanError(
                f"{beginning}, whose graph was unflattened and is run node by node; patch the "
                "exported program's module() in its place."
            )
        if makes_calls(module) or isinstance(module, GraphModule):
            return module
        hint = f"; name the module, {name!r}, itself" if is_activation(module) else ""
        raise PlanError(
            f"{beginning}, but {kind.__name__} calls no activations as functions{hint}."
        )
    if stands_in(derivative, module):
        return module
    if _differs(derivative, module):
        called = _called(derivative, name, module)
        hint = f"; name what it calls: {called}" if called else ""
        raise PlanError(f"{beginning}, which is a {kind.__name__} with a forward of its own{hint}.")
    raise PlanError(f"{beginning}, which is a {kind.__name__}, not a {_native(derivative)}.")


def _native(derivative: Derivative) -> str:
    return "module of its own" if derivative.native is None else derivative.native.__name__


def _around(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules that hold the one of that name, outermost first."""
    parts = name.split(".") if name else []
    for count in range(len(parts)):
        yield model.get_submodule(".".join(parts[:count]))
