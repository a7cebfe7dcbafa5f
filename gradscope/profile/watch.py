"""Hooks on modules and a reader of calls: finds the sites of a model while it runs.

A stack of frames holds the modules that are running; the innermost one names the functional calls.
What a site shows is for the observer to measure.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradscope.batches import tensors_in
from gradscope.profile import operators
from gradscope.profile.calls import Calls
from gradscope.profile.exchange import made_local
from gradscope.profile.layout import Layout
from gradscope.profile.operators import Call
from gradscope.profile.site import Site, observable, recomputing
from gradscope.profile.sums import Sums
from gradscope.records import Role

if TYPE_CHECKING:
    from gradscope.profile.observer import Observer

__all__ = ["Watch", "unheard"]


@dataclass
class _Frame:
    """A module that is running.

    Attributes:
        name: of the module.
        module: itself.
        role: of its own site; None where it has none.
        silent: whether calls inside it are no sites: it is an operator, or computes weights.
        layers: whether functional layers inside it are sites of their own.
        inner: sites of the functions called directly in it.
        noted: what its input showed, handed from before it runs to after.
    """

    name: str
    module: nn.Module
    role: Role | None
    silent: bool
    layers: bool
    inner: list[Site] = field(default_factory=list)
    noted: dict[str, Sums] = field(default_factory=dict)


def unheard(hook: Callable[..., None]) -> Callable[..., None]:
    """The same hook, whose own calls of torch's functions are not listened to."""

    @functools.wraps(hook)
    def quiet(*args: Any, **kwargs: Any) -> None:
        with torch._C.DisableTorchFunction():
            hook(*args, **kwargs)

    return quiet


class Watch:
    """One step's watch over a model, for an observer."""

    def __init__(self, observer: Observer, model: nn.Module, *, alone: bool) -> None:
        self._observer = observer
        self._model = model
        self._alone = alone
        self._layouts = observer.layouts
        self._frames: list[_Frame] = []
        self._handles: list[RemovableHandle] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks are on the model inside, and on nothing afterwards."""
        try:
            inside = "\0"
            for name, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    if not name.startswith(inside):
                        inside = f"{name}."
                        self._observer.cannot_see(
                            "TorchScript runs as a whole, without calling its modules", name
                        )
                    continue
                self._watch(name, module)
            with Calls(self):
                yield
        finally:
            for handle in self._handles:
                handle.remove()
            self._frames = []

    def _watch(self, name: str, module: nn.Module) -> None:
        computes_weights = "parametrizations" in name.split(".")
        root = module is self._model
        role = None if root or computes_weights else operators.role_of(module)
        silent = computes_weights or operators.is_activation(module)
        kind = operators.kind_of(module)
        own = kind.__module__.startswith("torch.nn.modules")
        mask = operators.saturation(module) if role is Role.ACTIVATION else None

        @unheard
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._frames:
                self._see_inputs(args, kwargs)
            frame = _Frame(name, module, role, silent, layers=not own and role is None)
            self._frames.append(frame)
            z = next(tensors_in((args, kwargs)), None)
            if role is not Role.ACTIVATION or z is None or not observable(z):
                return
            # Before the module runs: an in-place activation overwrites its input.
            if isinstance(module, nn.Softmax) and operators.over_last_of_many(z, module.dim):
                frame.role = Role.ATTENTION
            frame.noted = self._observer.note(z, mask, scores=frame.role is Role.ATTENTION)

        @unheard
        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            frame = self._frames.pop()
            if output is None:
                # The forward has raised.
                return
            y = next(tensors_in(output), None)
            if y is None or y.numel():
                # An expert that is called with no samples was not reached.
                self._observer.reached.add(name)
            if y is not None and not computes_weights:
                if not self._layouts.knows(y):
                    self._layouts.inherit((args, kwargs), y)
                whole = None if self._alone else made_local(y)
                if whole is not None:
                    self._layouts.set(y, replace(self._layouts.of(y), shard=whole.shard))
                self._see_module(frame, y)
            if root:
                self._observer.see_output(output)

        self._handles += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True, always_call=True),
        ]

    def _see_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What enters from outside is samples first, unless it came out of the model before."""
        entering = list(tensors_in((args, kwargs)))
        for tensor in entering:
            if tensor.ndim and not self._layouts.knows(tensor):
                self._layouts.set(tensor, Layout(samples=0))
        self._observer.see_input(next(iter(entering), None))

    def _see_module(self, frame: _Frame, y: Tensor) -> None:
        module, role = frame.module, frame.role
        parts = {site.role for site in frame.inner}
        composed = parts and parts <= {Role.ACTIVATION, Role.GATE}
        if role is None and composed and not any(True for _ in module.children()):
            # A leaf that works an activation out of others: they are its parts, it is the site.
            bare = not any(True for _ in module.parameters(recurse=False))
            if bare and self._observer.site_of(y) not in frame.inner and module is not self._model:
                role = Role.ACTIVATION
                for site in frame.inner:
                    site.role = Role.GATE
        if role is None:
            return
        kind = operators.kind_of(module)
        builtin = kind.__module__.startswith("torch.nn.")
        if role is Role.LAYER and not builtin and self._observer.site_of(y) is not None:
            # The site inside whose output it hands on has been seen.
            return
        dead_zone = operators.has_dead_zone(kind)
        noted = frame.noted
        if isinstance(module, (nn.RNN, nn.RNNCell)):
            dead_zone = module.nonlinearity == "relu"
            if module.nonlinearity == "tanh":
                noted = self._observer.note(y, operators.saturated_output(module), scores=False)
        if isinstance(module, nn.RNNBase):
            self._observer.cannot_see(
                "its gates, its lower layers and its path through time are computed in one fused "
                "call, which shows its output alone",
                frame.name,
            )
        self._observer.see(frame.name, role, kind.__name__, y, dead_zone=dead_zone, noted=noted)

    def before_call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Call, dict[str, Sums]] | None:
        """Looks at the input of a call that will be a site; see ``calls.Listener``."""
        frame = self._frames[-1] if self._frames else None
        if frame is None or any(each.silent for each in self._frames):
            return None
        call = operators.called(name, args, kwargs)
        if call is None:
            return None
        if call.role not in (Role.ACTIVATION, Role.ATTENTION) and not frame.layers:
            return None
        if not observable(call.z) or recomputing():
            return call, {}
        if call.operator != "scaled_dot_product_attention":
            return call, self._observer.note(call.z, call.mask, scores=call.role is Role.ATTENTION)
        return call, self._observer.note_fused(frame.name, call.z, args, kwargs)

    def after_call(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        noted: tuple[Call, dict[str, Sums]] | None,
    ) -> None:
        """Follows the axes through a call, and looks at what it returned if it is a site."""
        self._layouts.follow(name, args, kwargs, out)
        if noted is None or not isinstance(out, Tensor):
            return
        call, seen = noted
        frame = self._frames[-1]
        site = self._observer.see(
            f"{frame.name}::{call.operator}",
            call.role,
            call.operator,
            out,
            dead_zone=call.dead_zone,
            noted=seen,
        )
        if site is not None and call.role is not Role.LAYER:
            frame.inner.append(site)
