"""Measures inside compiled graphs, for trainings that cannot afford a step that is not compiled.

A watched module hands its output through a function that changes nothing and whose backward returns
a few sums as the gradient of a small leaf tensor. Nothing is written to from inside, so that torch
compiles one graph; the engine adds the sums up over micro-batches; a forward that is recomputed
counts once, and one without a backward not at all. It is measured at every step, and read at some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradscope.monitor.eager import compiler_in_use
from gradscope.monitor.finding import Bounds, FoundSite
from gradscope.monitor.gauges import Gauge

__all__ = ["InGraph", "measurable"]

# What a probe holds before the counts of units: see _Through.
_HEAD = 6

_FLOAT32 = torch.float32


def measurable(found: Iterable[FoundSite]) -> tuple[list[FoundSite], str]:
    """The sites that a hook on a module sees, and what has to be said of the others.

    Those are calls of functions, outputs of which this process holds a part, and the later uses of
    a module, which are measured together with its first.
    """
    kept, left = [], []
    for site in found:
        if site.operator or site.shard is not None:
            left.append(site.record.name)
        elif not site.use:
            kept.append(site)
    if not left:
        return kept, ""
    return kept, (
        f"{len(left)} places are not measured in the graph, as they are calls of functions or "
        f"shared out over processes: {', '.join(left[:3])}{', ...' * (len(left) > 3)}; "
        "compiled='eager' measures them"
    )


class InGraph:
    """The hooks that are on modules as long as the monitor watches.

    Args:
        gauges: of sites that are ``measurable``; they get what was measured in the graph.
        device: of the model.
        warns: takes what somebody has to know.
    """

    def __init__(
        self, gauges: Sequence[Gauge], device: torch.device, warns: Callable[[str], None]
    ) -> None:
        self._taps = {gauge: _Tap(gauge, device) for gauge in gauges}
        self._warns, self._retraced, self._told = warns, False, False
        self._handles: list[RemovableHandle] = []

    def put_on(self) -> None:
        """For all steps that come."""
        self._handles = [
            gauge.site.module.register_forward_hook(tap) for gauge, tap in self._taps.items()
        ]

    def take_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def clear(self) -> None:
        """Before a step that will be read."""
        for tap in self._taps.values():
            tap.probe.grad = None

    @torch.no_grad()
    def read(self) -> None:
        """Hands what was measured since ``clear`` to the gauges.

        Waits for the device, as counts are needed on the host.
        """
        measured = [
            (gauge, tap.probe.grad)
            for gauge, tap in self._taps.items()
            if tap.probe.grad is not None
        ]
        if len(measured) < len(self._taps):
            self._see_to_the_rest(len(self._taps) - len(measured))
        if not measured:
            return
        device = measured[0][1].device
        heads = torch.stack([sums[:_HEAD].to(device) for _, sums in measured]).tolist()
        for (gauge, sums), head in zip(measured, heads, strict=True):
            _, _, elements, rows, calls, observations = head
            gauge.forward.copy_(sums[0].sqrt())
            gauge.gradient.copy_(sums[1].sqrt())
            gauge.elements = gauge.gradient_elements = int(elements)
            gauge.factor = rows / calls * gauge.site.samples / gauge.site.rows
            gauge.observations = int(observations)
            counts = list(sums[_HEAD:].split(gauge.units)) if gauge.units else []
            if gauge.site.record.dead_zone:
                inactive = counts.pop(0)
                # As maxima and minima would be: above 0 if any was, at or below if any was.
                gauge.highs.copy_(observations - inactive)
                gauge.lows.copy_(0.5 - inactive)
            if gauge.site.record.bounded:
                gauge.bounded_observations = int(observations)
                gauge.saturated.copy_(counts.pop())

    def _see_to_the_rest(self, missing: int) -> None:
        """Hooks that did not run: torch does not look for them in what it compiled before."""
        sites = f"{missing} of {len(self._taps)} sites"
        if not self._retraced and compiler_in_use():
            self._retraced = True
            torch._dynamo.reset()
            self._warns(
                f"{sites} were not measured in the graph, as of a model that was compiled before "
                "the monitor was made; everything is compiled once more, and making the monitor "
                "before the model's first call saves that"
            )
        elif missing == len(self._taps) and not self._told:
            self._told = True
            self._warns("no site is measured in the graph, as no gradient comes back to any")


class _Tap:
    """The hook on one module. What cannot be measured passes as it is."""

    def __init__(self, gauge: Gauge, device: torch.device) -> None:
        site, record = gauge.site, gauge.site.record
        own = next(site.module.parameters(), None)
        self._units, self._axis = gauge.units, site.unit_axis
        self._dead_zone = record.dead_zone
        self._bounds = site.bounds if record.bounded else None
        counted = int(record.dead_zone) + int(self._bounds is not None)
        self.probe = torch.zeros(
            _HEAD + counted * gauge.units,
            device=device if own is None else own.device,
            dtype=torch.float32,
            requires_grad=True,
        )

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if type(output) is tuple and output:
            first = self._through(output[0])
            return None if first is None else (first, *output[1:])
        return self._through(output)

    def _through(self, y: Any) -> Tensor | None:
        if type(y) is not Tensor or not torch.is_grad_enabled() or not y.requires_grad:
            return None
        if not y.is_floating_point() or y.device != self.probe.device or not y.ndim:
            return None
        axis, units = self._axis, self._units
        if units and axis is not None and (y.ndim <= axis or y.shape[axis] != units):
            return None
        passed: Tensor = _Through.apply(  # type: ignore[no-untyped-call]
            y, self.probe, axis, self._dead_zone, self._bounds
        )
        return passed

    # Copies of the model, and files that it is saved to, take along something that does nothing
    # and needs no gradscope to be read.

    def __deepcopy__(self, memo: object) -> Callable[..., None]:
        return nullcontext().__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


class _Through(torch.autograd.Function):
    """The identity, whose backward adds up for ``probe``.

    Squares of the output, squares of its gradient, elements, rows, calls, observations of each
    unit; then of each unit how often it was not above 0, and how often it was saturated.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        probe: Tensor,
        axis: int | None,
        dead_zone: bool,
        bounds: Bounds | None,
    ) -> Tensor:
        x = y.detach()
        number = x.new_full
        elements, units = x.numel(), 1 if axis is None else x.shape[axis]
        counted = [
            number((), elements, dtype=_FLOAT32),
            number((), x.shape[0], dtype=_FLOAT32),
            number((), 1, dtype=_FLOAT32),
            number((), elements // units, dtype=_FLOAT32),
        ]
        parts = [torch.stack(counted)]
        if axis is None:
            axis, x = 1, x.reshape(-1, 1)
        dims = tuple(dim for dim in range(x.ndim) if dim != axis)
        if dead_zone:
            parts.append((x <= 0).sum(dims, dtype=_FLOAT32))
        if bounds is not None:
            parts.append(((x <= bounds[0]) | (x >= bounds[1])).sum(dims, dtype=_FLOAT32))
        ctx.save_for_backward(x.to(_FLOAT32).square().sum().reshape(1), torch.cat(parts))
        # The output as it stands may not be written to in place by what follows; a compiler
        # leaves the copy out.
        return y.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        squares, counts = ctx.saved_tensors
        backward = gradient.detach().to(_FLOAT32).square().sum().reshape(1)
        return gradient, torch.cat([squares, backward, counts]), None, None, None
