"""Measures what passes at a model's sites during a step, and forgets the tensors at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from gradscope.batches import Batch, tensors_in
from gradscope.checked import one_line
from gradscope.profile import attention, first_input, statistics, sums, through_time
from gradscope.profile.axes import Layout, samples_first, shard_of_ordered
from gradscope.profile.ends import INPUT, OUTPUT, Ends, end_numbers
from gradscope.profile.exchange import Exchange, Packet
from gradscope.profile.graph import Depths, behind_reshapes, reduction, ways_around
from gradscope.profile.layout import Layouts, behind
from gradscope.profile.loss import LossCalls
from gradscope.profile.operands import Noted, Operands
from gradscope.profile.sharding import local, shard_of
from gradscope.profile.site import Site, observable, recomputing, unobservable
from gradscope.profile.sums import Place, Sums
from gradscope.profile.through_time import Sequence
from gradscope.profile.watch import Watch, unheard
from gradscope.records import LayerInput, Role, SiteProfile, Skipped

__all__ = ["Observer"]

_FINISH: dict[str, Callable[[Sums], dict[str, Tensor]]] = {
    "forward": sums.numbers,
    "backward": sums.gradient_numbers,
    "features": sums.feature_numbers,
    "scores": attention.score_numbers,
    "given": first_input.input_numbers,
    "steps": through_time.steps_numbers,
    "decay": through_time.decay_numbers,
    INPUT: end_numbers,
    OUTPUT: end_numbers,
}


class Observer:
    """Gathers the forward and backward statistics of every site of a model over several steps.

    Use it as ``with observer.step(batch, samples): loss = ...; observer.examine(loss);
    loss.backward()`` and then ``observer.close(exchange.total(observer.packet))``. No hook outlives
    the block.

    Args:
        model: without wrappers such as DDP.
        exchange: the processes that profile it together.
        fused_scores: whether the scores of fused attention are computed beside it.
        loss_scale: what the loss is multiplied by before the backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        exchange: Exchange,
        *,
        fused_scores: bool = False,
        loss_scale: float = 1.0,
    ) -> None:
        self._model = model
        self._exchange = exchange
        self._fused_scores = fused_scores
        self._loss_scale = loss_scale
        self._sites: dict[str, Site] = {}
        self._charted: set[str] = set()
        self._unseen: dict[str, list[str]] = {}
        self._steps = 0
        self.reached: set[str] = set()
        self.used: set[int] = set()
        self.loss_calls = LossCalls()
        self.ends = Ends(exchange, self._put)
        self.reduction = ""
        self.samples = 0
        self.packet = Packet()

    @contextmanager
    def step(
        self, batch: Batch, samples: int, *, counting_only: bool = False, last: bool = False
    ) -> Iterator[None]:
        """Observes one forward and backward pass of a batch of ``samples``.

        With ``counting_only`` it adds to what is counted over units (dead, saturated) alone, and
        is no step of the series. ``last`` is the step that is looked at for ranks too.
        """
        self._counting_only, self._last = counting_only, last
        self._uses: dict[str, int] = {}
        self._recomputed: dict[str, int] = {}
        self._gradients_of: set[str] = set()
        self.ends.begin()
        self._finished: list[tuple[str, dict[str, Tensor]]] = []
        self._forget()
        self.operands = Operands(
            self.layouts,
            self._exchange,
            counting_only=counting_only,
            fused_scores=self._fused_scores,
            cannot_see=self.cannot_see,
        )
        self.packet = Packet()
        self._here = samples
        self.samples = self._exchange.open(batch, samples)
        self._handles: list[RemovableHandle] = []
        try:
            with Watch(self, self._model, alone=self._exchange.alone).watching():
                yield
        finally:
            for handle in self._handles:
                handle.remove()
            self._forget()
        if not self._exchange.alone:
            reached = dict.fromkeys(name for name, _ in self.packet.sums if name in self._sites)
            self.packet.about = {name: self._sites[name].copy_of_facts() for name in reached}

    def _forget(self) -> None:
        self.layouts = Layouts(self.used)
        self._depths = Depths()
        self._site_of = WeakTensorKeyDictionary()
        self._nodes: dict[Any, Site] = {}
        self._entrances: dict[Any, bool] = {}

    def examine(self, loss: Tensor) -> None:
        """Reads the graph of the loss, which the backward pass is about to use up."""
        self.reduction = self.reduction or reduction(loss.grad_fn, self._here)
        self._chart_ways(loss.grad_fn)
        # The nodes hold what the forward pass has saved.
        self._nodes, self._entrances, self._depths = {}, {}, Depths()

    def _chart_ways(self, end: Any) -> None:
        """Notes which sites gradients get around from the end of the graph, and where they join."""
        names = {node: site.name for node, site in self._nodes.items()}
        if end is None or self._charted.issuperset(names.values()):
            return
        least = min((self._nodes[node].depth for node in self._entrances), default=0)
        first = [node for node in self._entrances if self._nodes[node].depth == least]
        sources = [node for node in first if self._entrances[node]] or first
        for node, join in ways_around(end, names, sources).items():
            self._nodes[node].branch = True
            self._nodes[node].joins = None if join is None else names[join]
        self._charted.update(names.values())

    def close(self, total: Packet) -> None:
        """Takes the sums over all processes of the step that is over."""
        finished = self._finished
        for name, site in total.about.items():
            known = self._sites.setdefault(name, site)
            if site.unplaced:
                known.shape = known.shape if known.series else site.shape
                self.cannot_see(
                    "its rows are picked by a router on each process, in no order among all: "
                    "neither correlation nor rank",
                    name,
                )
        for (name, kind), found in total.sums.items():
            if kind in _FINISH:
                finished.append((name, _FINISH[kind](found)))
            elif kind == "units":
                self._sites[name].add(found)
        if total.about:
            self._sites = {name: self._sites[name] for name in total.about} | self._sites
        keys = [(name, what) for name, values in finished for what in values]
        values = statistics.to_floats(
            [value for _, values in finished for value in values.values()]
        )
        ends: dict[str, float] = {}
        for (name, what), value in zip(keys, values, strict=True):
            if name in (INPUT, OUTPUT):
                ends[name] = value
            else:
                self._sites[name].series[what, self._steps] = value
        self._steps += not self._counting_only
        self.ends.close(self._steps, ends)
        self._finished, self.packet = [], Packet()

    def fewest_observations(self) -> int:
        """Samples times positions seen of a unit, at the site whose units are counted least.

        Only sites with a dead zone or bounds count; a number without bound where there are none.
        """
        counted = (site.observations for site in self._sites.values() if site.counts_units)
        return min(counted, default=sys.maxsize)

    def profiles(self) -> tuple[SiteProfile, ...]:
        """What was seen, in execution order of the first step that reached each site."""
        return tuple(site.profile(index, self._steps) for index, site in enumerate(self._measured))

    @property
    def _measured(self) -> list[Site]:
        # Where measuring failed there is nothing to tell but that.
        return [site for site in self._sites.values() if "count" in site.totals]

    @property
    def first_inputs(self) -> tuple[LayerInput, ...]:
        """What the layers were given that the data reaches first."""
        given = (site.given(self._steps) for site in self._measured)
        return tuple(each for each in given if each is not None)

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be seen, and why."""
        return [
            Skipped(f"{names[0]} and {len(names) - 1} more" if names[1:] else names[0], reason)
            for reason, names in self._unseen.items()
        ]

    # --- What the watch tells -----------------------------------------------------------------

    def cannot_see(self, reason: str, name: str) -> None:
        """Something at the module of that name cannot be measured."""
        names = self._unseen.setdefault(reason, [])
        if name not in names:
            names.append(name or type(self._model).__name__)

    def see_input(self, x: Tensor | None) -> None:
        """What enters the model."""
        if not self._counting_only:
            self.ends.see_input(x, self.layouts)

    def see_output(self, output: Any) -> None:
        """What the model returned."""
        if not self._counting_only:
            self.ends.see_output(output, self._here, self.layouts, self.site_of)
        # The last site that wrote a tensor is the one whose output it is: an in-place activation
        # returns the tensor of the layer before it.
        for tensor in tensors_in(output):
            # A squeeze or a reshape behind the last site does not make it less of an output.
            node = behind_reshapes(tensor.grad_fn, until=self._nodes)
            site = self.site_of(tensor) or (self._nodes.get(node) if node else None)
            if site is not None:
                site.is_output = True

    def site_of(self, y: Tensor) -> Site | None:
        """The site that returned this very tensor last, in this step, if it is as it was then."""
        site, version = self._site_of.get(y, (None, 0))
        return site if version == _version(y) else None

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
    ) -> Site | None:
        """Takes the statistics of one output, and asks for its gradient.

        ``sequence`` is the input of a fused recurrent layer, whose gradient is asked for too.
        """
        again = recomputing()
        if not y.numel() or not observable(y):
            why = unobservable(y)
            if why:
                self.cannot_see(why, name)
            return None
        uses = self._recomputed if again else self._uses
        use = uses.get(name, 0)
        uses[name] = use + 1
        known = f"{name}@{use}" if use or "::" in name else name
        site = self._sites.get(known)
        if again:
            # Activation checkpointing runs the forward again during the backward: it was counted
            # before, but in its reentrant form only this pass has a graph.
            if site is None or known in self._gradients_of:
                return None
            if self._uses.get(name, 0) > 1:
                self.cannot_see(
                    "it is used several times in segments that reentrant checkpointing recomputes "
                    "in another order: no backward signal",
                    name,
                )
                return None
            self._ask_for_gradient(y, site, sequence)
            return None
        layout = self.layouts.of(y)
        x, axis = samples_first(local(y), layout)
        shard = shard_of(y) or shard_of_ordered(y, layout)
        place = self._exchange.place(x, shard)
        if site is None:
            shape = tuple(x.shape) if place is None or not place.samples else place.extents(x)
            site = Site(known, role, operator, shape, axis, str(x.dtype).removeprefix("torch."))
            self._sites[known] = site
        site.held = x.shape[0], self._here
        with torch.no_grad():
            self._measure(site, x, axis, place, noted, dead_zone=dead_zone)
        self._site_of[y] = site, _version(y)
        if not self._counting_only:
            self._chart(y, site, layout)
        self._ask_for_gradient(y, site, sequence)
        return site

    # --- Measuring ----------------------------------------------------------------------------

    def _measure(
        self,
        site: Site,
        x: Tensor,
        axis: int,
        place: Place | None,
        noted: Noted,
        *,
        dead_zone: bool,
    ) -> None:
        parts = 1 if place is None or place.shard is None else place.shard.parts
        forward = sums.forward_sums(x, place)
        units = sums.unit_sums(
            x, axis, place, dead_zone=dead_zone, magnitude=site.role is Role.ACTIVATION
        )
        units |= {"count": forward["count"], "zeros": forward["zeros"]} | noted.pop("units", {})
        self._put(site.name, "units", units, parts)
        if self._counting_only:
            return
        self._put(site.name, "forward", forward, parts)
        for kind, found in noted.items():
            self._put(site.name, kind, found, parts)
        if self._last and x.shape[axis] > 1:
            self._put(site.name, "features", sums.feature_sums(x, axis, place), parts)

    def _chart(self, y: Tensor, site: Site, layout: Layout) -> None:
        """Notes where in the graph the site lies."""
        depth = layout.passed
        node = behind(y, self.layouts).grad_fn
        if node is not None:
            depth = self._depths.place(node, depth)
        self.layouts.set(y, replace(layout, passed=depth + 1))
        if site.name not in self._charted:
            site.depth = depth
        if node is not None:
            if node not in self._nodes:
                self._entrances[node] = layout.samples is not None
            self._nodes[node] = site

    def _ask_for_gradient(self, y: Tensor, site: Site, sequence: Sequence | None) -> None:
        if not y.requires_grad or self._counting_only:
            return
        self._gradients_of.add(site.name)
        self._sum_gradient(behind(y, self.layouts), site, "backward", sums.gradient_sums)
        if sequence is not None:
            # Without the alias itself: it would keep itself alive.
            time, both_ways = sequence.time, sequence.both_ways
            measure = partial(through_time.decay_sums, time=time, both_ways=both_ways)
            self._sum_gradient(sequence.alias, site, "decay", measure)

    def _sum_gradient(
        self, x: Tensor, site: Site, kind: str, measure: Callable[[Tensor, float], Sums]
    ) -> None:
        """Puts what ``measure`` makes of the gradient that arrives at ``x``, and of its factor."""
        parts = self.packet.parts.get((site.name, "forward"), 1)

        @unheard
        def see(gradient: Tensor) -> None:
            # A mean over the samples here, and the scale of the loss, are undone.
            factor = (1 if self.reduction == "sum" else self._here) / self._loss_scale
            try:
                with torch.no_grad():
                    self._put(site.name, kind, measure(local(gradient), factor), parts)
            except Exception as error:
                self.cannot_see(f"measuring its gradient failed: {one_line(error)}", site.name)

        self._handles.append(x.register_hook(see))

    def _put(self, name: str, kind: str, found: Sums, parts: int) -> None:
        """Keeps sums for the exchange; where nobody takes part in it, what they make."""
        if not self._exchange.alone:
            self.packet.sums[name, kind] = found
            self.packet.parts[name, kind] = parts
        elif kind == "units":
            self._sites[name].add(found)
        else:
            self._finished.append((name, _FINISH[kind](found)))


def _version(x: Tensor) -> int:
    """Goes up when a tensor is written to."""
    return 0 if x.is_inference() else x._version
