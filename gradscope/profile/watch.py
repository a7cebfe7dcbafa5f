"""Hooks on modules and a reader of calls: finds the sites of a model while it runs.

A stack of frames holds the modules that are running; the innermost one names the functional calls.
What a site shows is for the observer to measure. Nothing that goes wrong here may reach the model:
it ends as something that could not be seen.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradscope.batches import tensors_in
from gradscope.checked import one_line
from gradscope.profile import first_input, operators, through_time
from gradscope.profile.axes import Layout
from gradscope.profile.calls import Calls
from gradscope.profile.layout import Layouts
from gradscope.profile.loss import LossCalls
from gradscope.profile.operands import Noted, Operands
from gradscope.profile.operators import Call
from gradscope.profile.sharding import shard_made_local
from gradscope.profile.site import Site, observable, recomputing
from gradscope.profile.through_time import Sequence
from gradscope.records import WHOLE, Role

__all__ = ["Measuring", "Watch", "unheard"]


class Measuring(Protocol):
    """Who measures what the watch finds."""

    layouts: Layouts
    loss_calls: LossCalls
    operands: Operands
    reached: set[str]

    def see_input(self, x: Tensor | None) -> None: ...
    def see_output(self, output: Any) -> None: ...
    def see(
        self,
        name: str,
        role: Role,
        operator: str,
        y: Tensor,
        *,
        dead_zone: bool,
        noted: Noted,
        sequence: Sequence | None = None,
    ) -> Site | None: ...
    def site_of(self, y: Tensor) -> Site | None: ...
    def cannot_see(self, reason: str, name: str) -> None: ...


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
        sequence: its input, where it is a fused recurrent layer.
    """

    name: str
    module: nn.Module
    role: Role | None
    silent: bool
    layers: bool
    inner: list[Site] = field(default_factory=list)
    noted: Noted = field(default_factory=dict)
    sequence: Sequence | None = None


def unheard(hook: Callable[..., None]) -> Callable[..., None]:
    """The same hook, whose own calls of torch's functions are not listened to."""

    @functools.wraps(hook)
    def quiet(*args: Any, **kwargs: Any) -> None:
        with torch._C.DisableTorchFunction():
            hook(*args, **kwargs)

    return quiet


class Watch:
    """One step's watch over a model."""

    def __init__(self, measuring: Measuring, model: nn.Module, *, alone: bool) -> None:
        self._measuring = measuring
        self._model = model
        self._alone = alone
        self._layouts = measuring.layouts
        self._running = threading.local()
        self._handles: list[RemovableHandle] = []
        self._before: dict[int, Callable[..., None]] = {}

    @property
    def _frames(self) -> list[_Frame]:
        """The modules that are running in this thread."""
        if not hasattr(self._running, "frames"):
            self._running.frames = []
        frames: list[_Frame] = self._running.frames
        return frames

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks are on the model inside, and on nothing afterwards."""
        try:
            self.put_on()
            with Calls(self):
                yield
        finally:
            self.take_off()
            self._running = threading.local()

    def put_on(self) -> None:
        """Puts hooks on the modules; calls of functions are not listened to by that."""
        inside = "\0"
        for name, module in self._model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                if not name.startswith(inside):
                    inside = f"{name}."
                    self._measuring.cannot_see(
                        "TorchScript runs as a whole, without calling its modules", name
                    )
                continue
            self._watch(name, module)

    def take_off(self) -> None:
        """Takes all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def leaves(self) -> None:
        """The module that was called from outside has returned or raised."""

    @contextmanager
    def _harmless(self, name: str) -> Iterator[None]:
        """What fails inside is something that cannot be measured, and no fault of the model's."""
        try:
            yield
        except Exception as error:
            self._measuring.cannot_see(f"measuring it failed: {one_line(error)}", name)

    # --- Modules ------------------------------------------------------------------------------

    def _watch(self, name: str, module: nn.Module) -> None:
        computes_weights = "parametrizations" in name.split(".")
        root = module is self._model
        kind = operators.kind_of(module)
        # A model that is one of torch's layers is its only site.
        composite = root and not _is_torchs(kind)
        role = None if composite or computes_weights else operators.role_of(module)
        silent = computes_weights or operators.is_activation(module)
        layers = not _is_torchs(kind) and role is None
        mask = operators.saturation(module) if role is Role.ACTIVATION else None

        @unheard
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            frame = _Frame(name, module, role, silent, layers)
            with self._harmless(name):
                if not self._frames:
                    self._see_inputs(args, kwargs)
                z = next(tensors_in((args, kwargs)), None)
                if role is Role.ACTIVATION and z is not None and observable(z):
                    # Before the module runs: an in-place activation overwrites its input.
                    attends = isinstance(module, nn.Softmax)
                    if attends and operators.over_last_of_many(z, module.dim):
                        frame.role = Role.ATTENTION
                    scores = frame.role is Role.ATTENTION
                    frame.noted = self._measuring.operands.of_activation(z, mask, scores=scores)
                if role is Role.LAYER:
                    frame.noted = self._given(module, tensors_in((args, kwargs)))
            self._frames.append(frame)

        @unheard
        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            # A hook of the user's that raised has kept ours from running.
            if not self._frames or self._frames[-1].module is not module:
                return
            frame = self._frames.pop()
            # Without an output the forward has raised.
            if output is not None:
                with self._harmless(name):
                    self._see_outputs(frame, args, kwargs, output)
            if root:
                with self._harmless(name):
                    self._measuring.see_output(output)
            if not self._frames:
                with self._harmless(name):
                    self.leaves()

        self._before[id(module)] = before
        self._handles += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True, always_call=True),
        ]
        if isinstance(module, nn.RNNBase):
            self._handles.append(module.register_forward_pre_hook(self._open, with_kwargs=True))

    def _given(self, layer: nn.Module | str, tensors: Iterable[Tensor]) -> Noted:
        """What a layer's input shows, where it is data that has passed no site yet."""
        found = first_input.given(layer, tensors, self._layouts.is_weight)
        if found is None or not found[0].ndim or not observable(found[0]):
            return {}
        # What no one has followed may be anything.
        if not self._layouts.knows(found[0]) or self._layouts.of(found[0]).passed:
            return {}
        return self._measuring.operands.of_layer(*found)

    def _open(
        self, module: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Hands a recurrent layer an alias of its input, whose gradient it can be asked for."""
        frame = self._frames[-1]
        with torch._C.DisableTorchFunction(), self._harmless(frame.name):
            x = args[0] if args else kwargs["input"]
            frame.noted |= self._measuring.operands.of_recurrent(module, x)
            why = through_time.obstacle(module, x)
            if why:
                self._measuring.cannot_see(why, frame.name)
                return None
            frame.sequence = through_time.opened(module, x)
            if frame.sequence is not None:
                alias = frame.sequence.alias
                self._layouts.set(alias, self._layouts.of(x))
                if args:
                    return (alias, *args[1:]), kwargs
                return args, kwargs | {"input": alias}
        return None

    def _see_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What enters from outside is samples first, unless it came out of the model before."""
        entering = list(tensors_in((args, kwargs)))
        for tensor in entering:
            if tensor.ndim and not self._layouts.knows(tensor):
                self._layouts.set(tensor, Layout(samples=0))
        self._measuring.see_input(next(iter(entering), None))

    def _see_outputs(
        self, frame: _Frame, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        y = next(tensors_in(output), None)
        if y is None or y.numel():
            # An expert that is called with no samples was not reached.
            self._measuring.reached.add(frame.name)
        if y is None or (frame.silent and frame.role is None):
            return
        if not self._layouts.knows(y):
            self._layouts.inherit((args, kwargs), y)
        if not self._alone:
            was_sharded, shard = shard_made_local(y)
            if was_sharded:
                self._layouts.set(y, replace(self._layouts.of(y), shard=shard))
        self._see_module(frame, y)

    def _see_module(self, frame: _Frame, y: Tensor) -> None:
        module, role = frame.module, frame.role
        kind = operators.kind_of(module)
        if role is None and self._is_composed(frame, y):
            role = Role.ACTIVATION
            for site in frame.inner:
                site.role = Role.GATE
        if role is None:
            return
        if role is Role.LAYER and not _is_torchs(kind) and self._measuring.site_of(y) is not None:
            # The site inside whose output it hands on has been seen.
            return
        noted = frame.noted
        if isinstance(module, (nn.RNN, nn.RNNCell)):
            mask = operators.saturated_output(module)
            noted |= self._measuring.operands.of_activation(y, mask, scores=False)
        if isinstance(module, nn.RNNBase):
            self._measuring.cannot_see(
                "its gates and its lower layers are computed in one fused call, which shows what "
                "enters and leaves it alone",
                frame.name,
            )
        self._measuring.see(
            frame.name or WHOLE,
            role,
            kind.__name__,
            y,
            dead_zone=operators.dead_zone(module),
            noted=noted,
            sequence=frame.sequence,
        )

    def _is_composed(self, frame: _Frame, y: Tensor) -> bool:
        """Whether it is a leaf that works an activation out of others, its parts."""
        parts = {site.role for site in frame.inner}
        return (
            bool(parts)
            and parts <= {Role.ACTIVATION, Role.GATE}
            and frame.module is not self._model
            and not any(True for _ in frame.module.children())
            and not any(True for _ in frame.module.parameters(recurse=False))
            and self._measuring.site_of(y) not in frame.inner
        )

    # --- Functions ----------------------------------------------------------------------------

    def before_call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Call, Noted] | None:
        """Looks at the input of a call that will be a site; see ``calls.Listener``."""
        frame = self._frames[-1] if self._frames else None
        if frame is None or any(each.silent for each in self._frames):
            return None
        with torch._C.DisableTorchFunction(), self._harmless(frame.name):
            call = operators.called(name, args, kwargs, self._layouts.is_weight)
            if call is None:
                return None
            if call.role not in (Role.ACTIVATION, Role.ATTENTION) and not frame.layers:
                return None
            if not observable(call.z) or recomputing():
                return call, {}
            if call.operator == "scaled_dot_product_attention":
                operands = self._measuring.operands
                return call, operands.of_fused_attention(frame.name, call.z, args, kwargs)
            if call.role is Role.LAYER:
                return call, self._given(call.operator, tensors_in((args, kwargs)))
            scores = call.role is Role.ATTENTION
            return call, self._measuring.operands.of_activation(call.z, call.mask, scores=scores)
        return None

    def after_call(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        noted: tuple[Call, Noted] | None,
    ) -> None:
        """Follows the axes through a call, and looks at what it returned if it is a site."""
        frame = self._frames[-1] if self._frames else None
        with (
            torch._C.DisableTorchFunction(),
            self._harmless("" if frame is None else frame.name),
        ):
            self._layouts.follow(name, args, kwargs, out)
            self._measuring.loss_calls.see(name, args, kwargs, out)
            if noted is None or frame is None or not isinstance(out, Tensor):
                return
            call, seen = noted
            site = self._measuring.see(
                f"{frame.name}::{call.operator}",
                call.role,
                call.operator,
                out,
                dead_zone=call.dead_zone,
                noted=seen,
            )
            if site is not None and call.role is not Role.LAYER:
                frame.inner.append(site)


def _is_torchs(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith("torch.nn.modules")
