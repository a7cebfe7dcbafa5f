"""Hooks that watch a model's sites for a step, and forget the tensors they saw at once."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from gradscope.batches import tensors_in
from gradscope.profile import statistics
from gradscope.profile.operators import has_dead_zone, is_activation, saturation
from gradscope.records import Role, SiteProfile

__all__ = ["Observer"]

# Autograd's names of operations that only lay a tensor out anew.
_RESHAPES = (
    "Alias", "Clone", "Expand", "Permute", "Reshape", "Select", "Slice", "Squeeze", "TBackward",
    "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View",
)  # fmt: skip

# A unit is saturated when its elements are on at least this share of the observations.
_SATURATED_OBSERVATIONS = 0.95

_CHANNELS_SECOND = (_ConvNd, _BatchNorm, _InstanceNorm, nn.GroupNorm)
_FEATURES_LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)


@dataclass
class _Site:
    """What has been gathered at one site so far."""

    name: str
    role: Role
    operator: str
    shape: tuple[int, ...]
    unit_axis: int
    is_output: bool = False
    series: dict[tuple[str, int], float] = field(default_factory=dict)
    observations: int = 0
    ever_positive: Tensor | None = None
    always_positive: Tensor | None = None
    saturated: Tensor | None = None


class Observer:
    """Gathers the forward and backward statistics of every site of a model over several steps.

    A site is the output of an activation module or of a module with parameters of its own. Use it
    as ``with observer.step(samples): loss = ...; loss.backward()``; no hook outlives the block.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._sites: dict[str, _Site] = {}
        self._steps = 0
        self.reached: set[str] = set()
        self.input_variation: list[float] = []

    @contextmanager
    def step(self, samples: int, *, counting_only: bool = False) -> Iterator[None]:
        """Observes one forward and backward pass of a batch of ``samples``.

        With ``counting_only`` it adds to what is counted over units (dead, saturated) alone, and
        is no step of the series.
        """
        self._counting_only = counting_only
        self._uses: dict[str, int] = {}
        self._recomputed: dict[str, int] = {}
        self._channel_axis = -1
        self._samples = samples
        self._inputs_seen = False
        # Handed from a bounded activation's pre-hook to its forward hook.
        self._saturated_now: Tensor | None = None
        self._scalars: list[Tensor] = []
        self._keys: list[tuple[_Site, str]] = []
        self._outputs: list[tuple[weakref.ref[Tensor], Any, _Site]] = []
        handles: list[RemovableHandle] = [
            self._model.register_forward_pre_hook(self._see_inputs, with_kwargs=True)
        ]
        self._tensor_handles: list[RemovableHandle] = []
        try:
            for name, module in self._model.named_modules():
                handles += self._watch(name, module)
            handles.append(self._model.register_forward_hook(self._see_output))
            yield
            values = statistics.to_floats(self._scalars)
            for (site, what), value in zip(self._keys, values, strict=True):
                site.series[what, self._steps] = value
        finally:
            self._steps += not counting_only
            for handle in (*handles, *self._tensor_handles):
                handle.remove()
            self._scalars, self._keys, self._outputs = [], [], []

    def fewest_observations(self) -> int:
        """Samples times positions seen of a unit, at the site whose units are counted least.

        Only sites with a dead zone or bounds count; a number without bound where there are none.
        """
        counted = (
            site.observations
            for site in self._sites.values()
            if site.ever_positive is not None or site.saturated is not None
        )
        return min(counted, default=sys.maxsize)

    def profiles(self) -> tuple[SiteProfile, ...]:
        """What was seen, in execution order of the first step that reached each site."""
        return tuple(
            self._site_profile(index, site) for index, site in enumerate(self._sites.values())
        )

    def _watch(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        if "parametrizations" in name.split("."):
            # Its outputs are weights (weight_norm, spectral_norm), not activations.
            return []
        activation = is_activation(module)
        own_parameters = any(True for _ in module.parameters(recurse=False))
        if not activation and not (own_parameters and module is not self._model):
            return [module.register_forward_hook(lambda *_: self.reached.add(name))]
        role = Role.ACTIVATION if activation else Role.LAYER
        mask = saturation(module) if activation else None

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            # Before the module runs: an in-place activation overwrites its input.
            z = next(tensors_in(inputs), None)
            if mask is not None and z is not None and z.is_floating_point() and z.numel():
                with torch.no_grad():
                    self._saturated_now = mask(z)

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            y = next(tensors_in(output), None)
            if y is None or y.numel():
                # An expert that is called with no samples was not reached.
                self.reached.add(name)
            if y is None or not y.is_floating_point() or not y.numel():
                return
            recomputed = torch._C._current_graph_task_id() != -1
            uses = self._recomputed if recomputed else self._uses
            use = uses.get(name, 0)
            uses[name] = use + 1
            known = name if use == 0 else f"{name}@{use}"
            if recomputed and known in self._sites:
                # Activation checkpointing runs the forward again during the backward: it was
                # counted before, but in its reentrant form only this pass has a graph.
                site = self._sites[known]
            else:
                with torch.no_grad():
                    site = self._see(known, role, module, y)
            if y.requires_grad and not self._counting_only:
                self._tensor_handles.append(y.register_hook(lambda g: self._see_gradient(site, g)))

        handles = [module.register_forward_hook(after)]
        if mask is not None:
            handles.append(module.register_forward_pre_hook(before))
        return handles

    def _see_inputs(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._inputs_seen:
            return
        self._inputs_seen = True
        first = next(tensors_in((args, kwargs)), None)
        if first is None or first.ndim == 0:
            return
        if first.is_floating_point() and not self._counting_only:
            self.input_variation.append(float(statistics.variation(first)))

    def _see(self, name: str, role: Role, module: nn.Module, y: Tensor) -> _Site:
        if role is Role.LAYER:
            self._channel_axis = _unit_axis(module, self._channel_axis)
        output = y
        if y.ndim < 2:
            y = y.reshape(-1, 1)
        axis = 1 if self._channel_axis == 1 else y.ndim - 1
        site = self._sites.get(name)
        if site is None:
            site = _Site(name, role, type(module).__name__, tuple(y.shape), axis)
            self._sites[name] = site
        self._outputs.append((weakref.ref(output), output.grad_fn, site))
        if not self._counting_only:
            self._note(site, "forward_rms", statistics.rms(y))
            self._note(site, "variation", statistics.variation(y))
            self._note(site, "correlation", statistics.correlation(y))
            self._note(site, "forward_nonfinite", statistics.nonfinite(y))
        site.observations += y.numel() // max(1, y.shape[axis])
        if role is Role.ACTIVATION and has_dead_zone(type(module)):
            rows = statistics.units_first(y, axis)
            ever, always = rows.amax(dim=1) > 0, rows.amin(dim=1) > 0
            if site.ever_positive is not None and site.always_positive is not None:
                ever, always = ever | site.ever_positive, always & site.always_positive
            site.ever_positive, site.always_positive = ever, always
        now, self._saturated_now = self._saturated_now, None
        if now is not None:
            count = statistics.units_first(now.reshape(y.shape), axis).sum(dim=1)
            site.saturated = count if site.saturated is None else site.saturated + count
        return site

    def _see_gradient(self, site: _Site, gradient: Tensor) -> None:
        # The loss is taken to be a mean over the batch: undone, the signal does not depend on
        # the batch size.
        with torch.no_grad():
            self._note(site, "backward_rms", statistics.rms(gradient) * self._samples)
            self._note(site, "backward_nonfinite", statistics.nonfinite(gradient))

    def _see_output(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        # The last site that wrote a tensor is the one whose output it is: an in-place activation
        # returns the tensor of the layer before it.
        tensors = {id(each): site for ref, _, site in self._outputs if (each := ref()) is not None}
        nodes = {node: site for _, node, site in self._outputs if node is not None}
        for tensor in tensors_in(output):
            # A squeeze or a reshape behind the last site does not make it less of an output.
            node = tensor.grad_fn
            while node is not None and node not in nodes and node.name().startswith(_RESHAPES):
                node = node.next_functions[0][0]
            site = tensors.get(id(tensor)) or (nodes.get(node) if node is not None else None)
            if site is not None:
                site.is_output = True
        self._outputs = []

    def _note(self, site: _Site, what: str, value: Tensor) -> None:
        self._keys.append((site, what))
        self._scalars.append(value)

    def _site_profile(self, index: int, site: _Site) -> SiteProfile:
        def series(what: str) -> tuple[float, ...]:
            return tuple(site.series.get((what, step), float("nan")) for step in range(self._steps))

        def counts(what: str) -> tuple[int, ...]:
            return tuple(int(site.series.get((what, step), 0)) for step in range(self._steps))

        dead = None if site.ever_positive is None else 1 - _share(site.ever_positive)
        always_positive = None if site.always_positive is None else _share(site.always_positive)
        saturated = None
        if site.saturated is not None:
            limit = _SATURATED_OBSERVATIONS * site.observations
            saturated = _share(site.saturated >= limit)
        return SiteProfile(
            name=site.name,
            role=site.role,
            operator=site.operator,
            index=index,
            shape=site.shape,
            unit_axis=site.unit_axis,
            is_output=site.is_output,
            forward_rms=series("forward_rms"),
            variation=series("variation"),
            correlation=series("correlation"),
            backward_rms=series("backward_rms"),
            forward_nonfinite=counts("forward_nonfinite"),
            backward_nonfinite=counts("backward_nonfinite"),
            observations=site.observations,
            dead=dead,
            always_positive=always_positive,
            saturated=saturated,
        )


def _unit_axis(module: nn.Module, before: int) -> int:
    """Where units are counted behind a layer: 1, -1, or where they were before it."""
    if isinstance(module, _CHANNELS_SECOND):
        return 1
    if isinstance(module, _FEATURES_LAST):
        return -1
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        return -1
    return before


def _share(mask: Tensor) -> float:
    """The share of units for which a mask of units holds."""
    return float(mask.double().mean())
