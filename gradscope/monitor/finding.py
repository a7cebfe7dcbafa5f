"""Finds a model's sites during its first training step, with the names that a profile gives them.

Nothing is measured here. What is found says which module or call each site is, which of its axes
counts units, and where in the graph it lies.
"""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from gradscope.batches import tensors_in
from gradscope.monitor.modes import taken_off, traced
from gradscope.profile.axes import Layout, Shard, order_of, shard_of_ordered
from gradscope.profile.calls import Calls
from gradscope.profile.exchange import Exchange, Packet
from gradscope.profile.graph import behind_reshapes, reduction
from gradscope.profile.loss import LossCalls
from gradscope.profile.observer import Observer
from gradscope.profile.operands import Noted, Operands
from gradscope.profile.run import owner
from gradscope.profile.sharding import is_distributed, local, shard_of
from gradscope.profile.site import Site, recomputing
from gradscope.profile.watch import Watch
from gradscope.records import WHOLE, Role
from gradscope.training import WatchedSite

__all__ = ["Bounds", "Finder", "FoundSite", "partial_sum"]

Bounds = tuple[float, float]
"""Outputs at or beyond these are saturated."""


@dataclass(frozen=True, slots=True)
class FoundSite:
    """Where a site is, for who measures it.

    Attributes:
        record: what is told of it.
        module: that stands there, or in whose forward the function is called.
        operator: name of the function; empty for a module.
        use: which of the calls of that module or function.
        unit_axis: of the output as it is, None where all of it is one unit.
        rows, samples: of the output, and of the batch, when it was found.
        bounds: of a bounded activation.
        shard: of which axis of the output, samples first, this process held a part.
    """

    record: WatchedSite
    module: nn.Module
    operator: str
    use: int
    unit_axis: int | None
    rows: int
    samples: int
    bounds: Bounds | None
    shard: Shard | None


_ENDS: dict[str, Bounds] = {
    # Where the derivative falls below 1 % of its largest: see operators.saturation.
    "sigmoid": (0.5 - math.sqrt(0.2475), 0.5 + math.sqrt(0.2475)),
    "tanh": (-math.sqrt(0.99), math.sqrt(0.99)),
    "softsign": (-0.9, 0.9),
    "hardsigmoid": (0.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    # Its lower side is counted as dead.
    "relu6": (-math.inf, 6.0),
}


class _Outermost(Watch):
    """Is on a model only while a module of it runs that was called from outside.

    So what is copied or pickled in between has nothing of it. A module that is called again from
    outside (another micro-batch, the discriminator's second batch) shows nothing new.
    """

    def __init__(self, finder: Finder, model: nn.Module) -> None:
        super().__init__(finder, model, alone=not is_distributed(model))
        self._finder = finder
        self._modules = {id(module) for module in model.modules()}
        self._called: set[int] = set()
        self._mode: Calls | None = None
        self._ignored: nn.Module | None = None
        self._globally = [
            register_module_forward_pre_hook(self._arrive),
            register_module_forward_hook(self._depart, always_call=True),
        ]

    def stop(self) -> None:
        """Looks at nothing more."""
        for handle in self._globally:
            handle.remove()
        self.leaves()

    def _arrive(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._mode is not None or self._ignored is not None or id(module) not in self._modules:
            return
        if id(module) in self._called or not torch.is_grad_enabled() or recomputing() or traced():
            self._ignored = module
            return
        self._called.add(id(module))
        with self._harmless(""):
            self.put_on()
            self._mode = Calls(self)
            self._mode.__enter__()  # type: ignore[no-untyped-call]
            # Torch has looked up this module's own hooks already.
            if id(module) in self._before:
                self._before[id(module)](module, args, _keyword_arguments())

    def _depart(self, module: nn.Module, *_: Any) -> None:
        if module is self._ignored:
            self._ignored = None

    def leaves(self) -> None:
        self.take_off()
        if self._mode is not None:
            mode, self._mode = self._mode, None
            taken_off(mode)

    def _open(self, *_: Any) -> None:
        """Recurrent layers get their own input, as ever."""


class _Unmeasured(Operands):
    """Looks at no input."""

    def of_activation(self, z: Tensor, mask: Any, *, scores: bool) -> Noted:
        return {}

    def of_fused_attention(self, *_: Any) -> Noted:
        return {}

    def of_layer(self, x: Tensor, axis: int) -> Noted:
        return {}

    def of_recurrent(self, module: nn.RNNBase, x: Any) -> Noted:
        return {}


class _Unread(LossCalls):
    def see(self, *_: Any) -> None:
        """Nothing: models may compute their loss in their forward."""


class Finder(Observer):
    """Looks at the first forward passes of a model.

    Use ``start()``, train one step, then ``finish(loss)``.
    """

    def __init__(self, model: nn.Module) -> None:
        # A model without parameters is on one process: to look needs no exchange with others.
        super().__init__(model, Exchange(nn.Module()))
        self.loss_calls = _Unread()
        self._modules = dict(model.named_modules())
        self._seen: dict[str, tuple[Site, Layout, tuple[int, ...], bool, Shard | None]] = {}
        self._end: Any = None
        self.samples = self._here = 1

    def start(self) -> None:
        """Looks at what is called from now on."""
        self._counting_only, self._last = False, False
        self._uses, self._recomputed, self._gradients_of = {}, {}, set()
        self._forget()
        self.operands = _Unmeasured(
            self.layouts,
            self._exchange,
            counting_only=True,
            fused_scores=False,
            cannot_see=self.cannot_see,
        )
        self.packet = Packet()
        self._watch = _Outermost(self, self._model)

    def finish(self, loss: Any) -> tuple[FoundSite, ...]:
        """Looks no longer; ``loss`` is where the graph ends, else what the model returned."""
        self._watch.stop()
        end = getattr(loss, "grad_fn", None) or self._end
        with suppress(RuntimeError, AttributeError):
            # What nodes have saved is freed by now.
            self.reduction = reduction(end, self.samples)
        self._chart_ways(end)
        found = tuple(self._found(*entry) for entry in self._seen.values())
        self._forget()
        self._end = None
        return found

    def uses(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether the module that owns a parameter ran, and used it; see ``Run.profile``."""
        used = id(parameter) in self.used or local(parameter) is not parameter
        return used and owner(self._model, name) in self.reached

    def _found(
        self,
        site: Site,
        layout: Layout,
        shape: tuple[int, ...],
        dead_zone: bool,
        shard: Shard | None,
    ) -> FoundSite:
        place, _, use = site.name.partition("@")
        owner, _, operator = place.partition("::")
        module = self._modules["" if owner == WHOLE else owner]
        bounds = _ENDS.get(operator or site.operator.lower())
        if bounds is not None and isinstance(module, nn.Hardtanh):
            bounds = (-math.inf if dead_zone else module.min_val, module.max_val)
        axis = None
        if len(shape) > 1:
            axis = order_of(torch.empty(shape, device="meta"), layout)[site.unit_axis]
        rows, samples = site.held
        whole = list(site.shape)
        if shard is not None and shard.axis:
            whole[shard.axis] *= shard.parts
        return FoundSite(
            WatchedSite(
                site.name,
                site.role.value,
                site.operator,
                tuple(whole),
                site.unit_axis,
                is_output=site.is_output,
                depth=site.depth,
                branch=site.branch,
                joins=site.joins,
                dtype=site.dtype,
                dead_zone=dead_zone,
                bounded=bounds is not None,
            ),
            module,
            operator,
            int(use or 0),
            axis,
            rows,
            samples,
            bounds,
            shard,
        )

    # --- What the watch tells -----------------------------------------------------------------

    def see_input(self, x: Tensor | None) -> None:
        if x is not None and x.ndim:
            self._here = self.samples = x.shape[0]

    def see_output(self, output: Any) -> None:
        for tensor in tensors_in(output):
            self._end = self._end or tensor.grad_fn
            node = behind_reshapes(tensor.grad_fn, until=self._nodes)
            site = self.site_of(tensor) or (self._nodes.get(node) if node else None)
            if site is not None:
                site.is_output = True

    def see(
        self,
        name: str,
        role: Role,
        operator: str,
        y: Tensor,
        *,
        dead_zone: bool,
        noted: Noted,
        sequence: Any = None,
    ) -> Site | None:
        if partial_sum(y):
            return None
        layout = self.layouts.of(y)
        site = super().see(name, role, operator, y, dead_zone=dead_zone, noted=noted)
        if site is not None:
            shard = shard_of(y) or shard_of_ordered(y, layout)
            self._seen[site.name] = site, layout, tuple(y.shape), dead_zone, shard
        return site

    def _measure(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def _ask_for_gradient(self, *_: Any) -> None:
        """Nothing."""


def _keyword_arguments() -> dict[str, Any]:
    """Those of the call that a global pre-hook was called for, which torch does not hand to it.

    They stand in the frame of torch's that calls the hook's caller; where they do not, in another
    version of torch, a model's inputs are not recognised by that.
    """
    frame = sys._getframe(2)
    found = frame.f_locals.get("kwargs")
    return found if isinstance(found, dict) else {}


def partial_sum(x: Tensor) -> bool:
    """Whether it is a DTensor whose parts are still to be added up: no process has its values."""
    placements = getattr(x, "placements", ())
    return any(placement.is_partial() for placement in placements)
