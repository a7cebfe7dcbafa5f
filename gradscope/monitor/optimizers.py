"""Norms of gradients, weights and updates, read where an optimizer uses them.

Under DDP hooks of parameters see the gradient of one process, under GradScaler a scaled one; what a
step's pre-hook sees is what the update is made of. Steps that GradScaler skips have no pre-hook.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.monitor.clock import Clock
from gradscope.profile.sharding import local

__all__ = ["Updates", "bare_optimizer"]

# Of a larger parameter the update is measured on so many elements, in contiguous runs: the error of
# a norm over n independent elements is 1/sqrt(2n), here 1 %. What is kept of all weights takes
# little memory.
_ELEMENTS = 1 << 12
_RUN = 64

# What is clipped by the norm passes one of these, by whichever name it was imported.
_CLIPS = ("_clip_grads_with_norm_", "clip_grads_with_norm_")

_FLOAT32 = torch.float32


def bare_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside wrappers such as accelerate's, which skip or scale steps."""
    inner = getattr(optimizer, "optimizer", None)
    return bare_optimizer(inner) if isinstance(inner, Optimizer) else optimizer


class Updates:
    """The parameters of a model, in the hands of its optimizers.

    Args:
        named: the parameters.
        optimizers: whose steps are watched.
        updates: whether weights and updates are measured, beside gradients.
        exact: whether they are measured on all elements.
        clock: takes the time that the hooks take.
        scaler: the GradScaler, if there is one.
        failed: takes what went wrong in a hook.

    Attributes:
        known: bool (4, parameters), which norms were measured in this step, as ``write_into`` lays
            them out.
        steps: how many steps the optimizers have taken since it was set to 0.
        sampling: whether this step is a sampled one.
        tiny: the parameters whose gradients' norms have been zero or infinite.
    """

    def __init__(
        self,
        named: Mapping[str, nn.Parameter],
        optimizers: Sequence[Optimizer],
        *,
        updates: bool,
        exact: bool,
        clock: Clock,
        scaler: Any,
        failed: Callable[[Exception], None],
    ) -> None:
        self.names = list(named)
        self.parameters = list(named.values())
        self.optimizers = [bare_optimizer(each) for each in optimizers]
        self.steps, self.sampling, self._clock = 0, False, clock
        # A norm is never computed in less than its elements have.
        doubles = [each.dtype == torch.float64 for each in self.parameters]
        self.tiny = {index for index, double in enumerate(doubles) if double}
        self._scaler, self._scale = scaler, torch.empty(0)
        self._updates, self._exact, self._failed = updates, exact, failed
        self._index = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        self.known = np.zeros((4, len(self.parameters)), dtype=bool)
        self._every = list(range(len(self.parameters)))
        self._one_device = False
        self._rows = torch.empty(0)
        self._cells: list[list[Tensor]] = []
        self._owned: dict[int, tuple[list[int], list[int]]] = {}
        self._before: dict[int, tuple[list[int], list[Tensor]]] = {}
        self._copies: dict[int, list[Tensor]] = {}
        self._handles: list[RemovableHandle] = []
        for optimizer in self.optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._pre))
        self._sampled: list[RemovableHandle] = []

    @property
    def size(self) -> int:
        """How many numbers it writes."""
        return 4 * len(self.parameters)

    def write_into(self, memory: Tensor, scale: Tensor) -> None:
        """From now on; float32 (size), and (1) for the loss's scale.

        Of each parameter the norm of the gradient before clipping, of the gradient that the update
        is made from, of the weight before the update, of the update.
        """
        self._scale = scale
        self._rows = memory.view(4, len(self.parameters))
        self._cells = [list(row.unbind()) for row in self._rows]
        self._one_device = all(each.device == memory.device for each in self.parameters)

    def close(self) -> None:
        """Takes all hooks off."""
        self.end()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    # --- Sampled steps ------------------------------------------------------------------------

    def begin(self) -> None:
        """Before a sampled step."""
        self.steps = 0
        self.known[:] = False
        self._before.clear()
        if not self.sampling:
            self.sampling = True
            self._sampled = [each.register_step_post_hook(self._post) for each in self.optimizers]
            _listen(self)

    def read_rest(self) -> None:
        """At the end of a sampled step: without an optimizer, the gradients are read here."""
        if not self.optimizers:
            self._norms(1, self._every)

    def end(self) -> None:
        """After the last of sampled steps in a row."""
        self.sampling = False
        for handle in self._sampled:
            handle.remove()
        self._sampled = []
        self._before.clear()
        _unlisten(self)

    def see_clipping(self, clipped: object) -> None:
        """The gradients of these parameters are about to be clipped; what counts is the first time.

        ``clipped`` is what torch's function is given; an iterator is not gone through.
        """
        start = perf_counter()
        try:
            several = [clipped] if isinstance(clipped, Tensor) else clipped
            indices = self._every
            if isinstance(several, (list, tuple)):
                found = (self._index.get(id(each)) for each in several)
                indices = [index for index in found if index is not None]
            self._norms(0, [index for index in indices if not self.known[0, index]])
        except Exception as error:
            self._failed(error)
        self._clock.seconds += perf_counter() - start

    # --- Hooks --------------------------------------------------------------------------------

    def _pre(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.steps += 1
        if not self.sampling:
            return
        start = perf_counter()
        try:
            indices = self._of(optimizer)
            # With a closure the gradients are made in the step.
            if not _has_closure(args, kwargs):
                self._norms(1, indices, getattr(optimizer, "grad_scale", None))
            if self._updates:
                self._remember(optimizer, indices)
            # Before GradScaler.update() changes it.
            scale = getattr(self._scaler, "_scale", None)
            if scale is not None:
                self._scale.copy_(scale.reshape(1))
        except Exception as error:
            self._failed(error)
        self._clock.seconds += perf_counter() - start

    def _post(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        start = perf_counter()
        try:
            if _has_closure(args, kwargs):
                self._norms(1, self._of(optimizer))
            if id(optimizer) in self._before:
                self._measure_update(optimizer)
        except Exception as error:
            self._failed(error)
        self._clock.seconds += perf_counter() - start

    def _of(self, optimizer: Optimizer) -> list[int]:
        """The parameters that it steps."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        known = self._owned.get(id(optimizer))
        if known is None or known[0] != sizes:
            indices = [
                index
                for group in optimizer.param_groups
                for each in group["params"]
                if (index := self._index.get(id(each))) is not None
            ]
            known = self._owned[id(optimizer)] = sizes, indices
        return known[1]

    # --- Norms --------------------------------------------------------------------------------

    @torch.no_grad()
    def _norms(self, row: int, indices: list[int], scale: Tensor | None = None) -> None:
        """Norms of the gradients of these parameters, into a row."""
        gradients = [self.parameters[index].grad for index in indices]
        held = [
            each if type(each) is Tensor and each.layout is torch.strided else _held(each)
            for each in gradients
        ]
        if any(each is None for each in held):
            indices = [index for index, each in zip(indices, held, strict=True) if each is not None]
        present = [each for each in held if each is not None]
        if not present:
            return
        norms = self._measured(indices, present)
        if scale is not None:
            torch._foreach_div_(norms, scale)
        self._keep(row, indices, norms)

    def _measured(self, indices: list[int], gradients: list[Tensor]) -> list[Tensor]:
        """Squares of float32 below 1e-19 are zero: gradients that were are taken as float64."""
        if not self.tiny:
            return self._norms_of(gradients)
        wide = [index in self.tiny for index in indices]
        norms: list[Tensor] = list(gradients)
        for precise in (False, True):
            places = [place for place, each in enumerate(wide) if each is precise]
            some = [gradients[place] for place in places]
            if some:
                kind = torch.float64
                found = torch._foreach_norm(some, dtype=kind) if precise else self._norms_of(some)
                for place, norm in zip(places, found, strict=True):
                    norms[place] = norm.to(_FLOAT32)
        return norms

    @staticmethod
    def _norms_of(tensors: list[Tensor]) -> list[Tensor]:
        if all(each.dtype != torch.float64 for each in tensors):
            return list(torch._foreach_norm(tensors, dtype=_FLOAT32))
        norms = torch._foreach_norm(tensors, dtype=torch.float64)
        return [norm.to(_FLOAT32) for norm in norms]

    def _keep(self, row: int, indices: list[int], values: Sequence[Tensor]) -> None:
        cells = self._cells[row]
        self.known[row, indices] = True
        if self._one_device and indices == self._every:
            torch.stack(tuple(values), out=self._rows[row])
            return
        torch._foreach_copy_([cells[index] for index in indices], list(values))

    @torch.no_grad()
    def _remember(self, optimizer: Optimizer, indices: list[int]) -> None:
        """Keeps a copy of the weights, in memory that is kept from one sample to the next."""
        moving = [index for index in indices if self.parameters[index].requires_grad]
        views = [self._view(index) for index in moving]
        copies = self._copies.get(id(optimizer), [])
        fits = len(copies) == len(views) and all(
            copy.shape == view.shape and copy.dtype == view.dtype
            for copy, view in zip(copies, views, strict=True)
        )
        if not fits:
            copies = self._copies[id(optimizer)] = [torch.empty_like(view) for view in views]
        if moving:
            torch._foreach_copy_(copies, views)
            self._before[id(optimizer)] = moving, views

    @torch.no_grad()
    def _measure_update(self, optimizer: Optimizer) -> None:
        indices, now = self._before.pop(id(optimizer))
        before = self._copies[id(optimizer)]
        weights = self._norms_of(before)
        torch._foreach_sub_(before, now)
        changes = self._norms_of(before)
        shares = [self._share(index, view) for index, view in zip(indices, now, strict=True)]
        if any(share != 1.0 for share in shares):
            torch._foreach_mul_(weights, shares)
            torch._foreach_mul_(changes, shares)
        self._keep(2, indices, weights)
        self._keep(3, indices, changes)

    def _share(self, index: int, part: Tensor) -> float:
        """What the norm of the elements that stand for all is multiplied by."""
        if self._exact or not part.numel():
            return 1.0
        return math.sqrt(local(self.parameters[index]).numel() / part.numel())

    def _view(self, index: int) -> Tensor:
        """The elements of a parameter that stand for all: all of a small one."""
        x = local(self.parameters[index].detach())
        if self._exact or x.numel() <= 2 * _ELEMENTS or not x.is_contiguous():
            return x
        runs = _ELEMENTS // _RUN
        # An odd number of elements apart, so as not to meet the same columns again and again.
        apart = ((x.numel() - _RUN) // runs - 1) | 1
        return x.as_strided((runs, _RUN), (apart, 1), x.storage_offset())


# Those that are told of clipping; while there are any, torch's functions tell them.
_listening: list[Updates] = []
_originals: dict[str, Callable[..., Any]] = {}


def _listen(updates: Updates) -> None:
    _listening.append(updates)
    if _originals:
        return
    for name in _CLIPS:
        original = getattr(clip_grad, name, None)
        if original is not None:
            _originals[name] = original
            setattr(clip_grad, name, _telling(original))


def _unlisten(updates: Updates) -> None:
    if updates in _listening:
        _listening.remove(updates)
    if not _listening:
        for name, original in _originals.items():
            setattr(clip_grad, name, original)
        _originals.clear()


def _telling(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def telling(*args: Any, **kwargs: Any) -> Any:
        for each in _listening:
            each.see_clipping(args[0] if args else kwargs.get("parameters"))
        return original(*args, **kwargs)

    return telling


def _held(gradient: Tensor | None) -> Tensor | None:
    """What this process holds of a gradient, in a dense tensor."""
    if gradient is not None and gradient.is_sparse:
        return gradient.coalesce().values()
    return None if gradient is None else local(gradient)


def _has_closure(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    # The first argument of the hooks is the optimizer itself.
    return any(callable(each) for each in (*args[1:], *kwargs.values()))
