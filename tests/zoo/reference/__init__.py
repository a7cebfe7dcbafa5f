"""A second, independent implementation of what a profile holds, for the models of the zoo.

It knows gradscope's contract and none of its code. Three things it is told rather than finds out
(see ``Axes``): where the units and the samples of a site are, and how the loss reduces.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.zoo.reference import statistics
from tests.zoo.reference.batches import call_model, part_of, samples_of
from tests.zoo.reference.capture import Capture, Seen, tensors
from tests.zoo.reference.entering import (
    Rows,
    measured_input,
    returned_variation,
    subnormal,
    time_decay,
)
from tests.zoo.reference.feeding import fed_by_the_batch, seed_all
from tests.zoo.reference.graph import Place, SiteGraph
from tests.zoo.reference.patching import capturing, without_checkpoints
from tests.zoo.reference.statistics import Array, numbers

Step = Callable[[nn.Module, Any], Tensor]
Numbers = dict[str, Any]

WANTED, MORE = 2000, 64
NOISE = 4


@dataclass(frozen=True)
class Axes:
    """Which sites have their units at dimension 1, and which their samples.

    Globs over names of sites. Elsewhere units are the last dimension and samples the first.
    """

    units_at_1: tuple[str, ...] = ()
    samples_at_1: tuple[str, ...] = ()

    def samples(self, name: str) -> int:
        return int(matches(name, self.samples_at_1))

    def units(self, name: str, ndim: int) -> int:
        """Dimension of the units once the samples have been moved to the front."""
        return 1 if ndim <= 2 or matches(name, self.units_at_1) else ndim - 1


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass
class Site:
    """A site over all passes; series as in ``SiteProfile``."""

    name: str
    role: str
    operator: str
    shape: tuple[int, ...]
    unit_axis: int
    dtype: str
    is_output: bool
    place: Place
    series: dict[str, list[Any]]
    has_dead_zone: bool = False
    is_bounded: bool = False
    units: list[Array] = field(default_factory=list)
    slopes: list[Array] = field(default_factory=list)
    effective_rank: float | None = None
    time_steps: int = 0

    def totals(self) -> Numbers:
        seen = np.concatenate(self.units, axis=1)
        open_ = self.has_dead_zone
        return {
            "observations": seen.shape[1],
            "zeros": float((seen == 0).mean()),
            "dead": float((~(seen > 0)).all(axis=1).mean()) if open_ else None,
            "always_positive": float((seen > 0).all(axis=1).mean()) if open_ else None,
            "saturated": statistics.saturated(np.concatenate(self.slopes, axis=1))
            if self.is_bounded
            else None,
            "dormant": statistics.dormant(seen) if self.role == "activation" else None,
            "effective_rank": self.effective_rank,
            "time_steps": self.time_steps,
        }


@dataclass(frozen=True)
class Noise:
    """Gradient noise; ``small`` and ``big`` are the squared norms that it is a difference of."""

    batches: int
    samples: int
    whole: int
    small: float
    big: float

    @property
    def squared_norm(self) -> float:
        """What the two differ by from G² are the covariance over 1/samples and 1/whole."""
        return self.big - self.covariance / self.whole

    @property
    def covariance(self) -> float:
        return (self.small - self.big) / (1 / self.samples - 1 / self.whole)


@dataclass
class Reference:
    """All that is expected of a profile."""

    losses: list[float] = field(default_factory=list)
    input_variation: list[float] = field(default_factory=list)
    output_variation: list[float] = field(default_factory=list)
    given_to: str | None = None
    first_input: dict[str, list[float]] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)
    parameters: dict[str, Numbers] = field(default_factory=dict)
    noise: Noise | None = None
    batch_size: int = 0


SERIES = (
    "forward_rms",
    "variation",
    "correlation",
    "backward_rms",
    "forward_nonfinite",
    "backward_nonfinite",
    "forward_peak",
)
WHERE_SEEN = ("logit_peak", "entropy", "backward_subnormal", "time_decay")


class Measuring:
    """The passes over a copy of the model, in the order the contract gives them."""

    def __init__(self, model: nn.Module, step: Step, axes: Axes, reduction: str, fused: bool):
        self.model = copy.deepcopy(model).train()
        self.step, self.axes, self.reduction, self.fused = step, axes, reduction, fused
        self.result = Reference()
        self.called: set[str] = set()
        self.fed: set[str] = set()

    def arranged(self, seen: Seen) -> tuple[Array, int]:
        """(samples, ...) and the dimension of the units."""
        return self.arrange(numbers(seen.y), seen.name)

    def arrange(self, x: Array, name: str) -> tuple[Array, int]:
        if x.ndim == 1:
            return x[:, None], 1
        return np.moveaxis(x, self.axes.samples(name), 0), self.axes.units(name, x.ndim)

    def note(self, seen: Seen, site: Site) -> None:
        """What is counted over all passes."""
        x, axis = self.arranged(seen)
        site.units.append(statistics.by_unit(x, axis))
        slopes = statistics.slopes(seen)
        if slopes is not None:
            site.slopes.append(statistics.by_unit(*self.arrange(slopes, seen.name)))

    def measure(self, batch: Any) -> list[Tensor | None]:
        """One step; returns the gradients of the parameters."""
        parameters = list(self.model.parameters())
        with capturing(self.model) as capture:
            loss = self.step(self.model, batch)
        ys = [seen.y for seen in capture.sites]
        entered = [seen.entered for seen in capture.sites if seen.entered is not None]
        wanted = [*ys, *parameters, *entered]
        gradients: dict[int, Tensor] = {}
        tracked = [i for i, t in enumerate(wanted) if t.requires_grad]
        found = torch.autograd.grad(loss, [wanted[i] for i in tracked], allow_unused=True)
        gradients = {i: g for i, g in zip(tracked, found, strict=True) if g is not None}
        step = len(self.result.losses)
        self.result.losses.append(float(loss.detach()))
        self.result.batch_size = self.result.batch_size or samples_of(batch)
        self.called |= capture.called
        inputs = capture.inputs or list(tensors(batch))  # a step may call the model's parts alone
        if inputs[0].is_floating_point():
            self.result.input_variation.append(statistics.variation(numbers(inputs[0])))
        returned = returned_variation(capture.returned, samples_of(batch), statistics.variation)
        if returned is not None:
            self.result.output_variation.append(returned)
        self.note_given(capture.sites[0])
        graph = SiteGraph(capture.sites, loss)
        fed = {i for i, seen in enumerate(capture.sites) if seen.name in self.fed}
        outputs = {id(t) for t in capture.outputs}
        scale = samples_of(batch) if self.reduction == "mean" else 1
        for i, seen in enumerate(capture.sites):
            if seen.name not in self.result.sites:
                place = graph.place(i, fed)
                self.result.sites[seen.name] = self.begin(seen, place, id(seen.y) in outputs, step)
            site = self.result.sites[seen.name]
            self.add(seen, site, gradients.get(i), scale)
            site.time_steps = max(site.time_steps, seen.time_steps)
            if seen.entered is not None:
                i = next(i for i, x in enumerate(wanted) if x is seen.entered)
                if i in gradients and site.time_steps > 1:
                    site.series["time_decay"].append(time_decay(seen, gradients[i]))
        for site in self.result.sites.values():
            if len(site.series["forward_rms"]) == step:
                self.absent(site)
        return [gradients.get(len(ys) + i) for i in range(len(parameters))]

    def note_given(self, first: Seen) -> None:
        """What the layer is given that the model begins with."""
        found = measured_input(first)
        if found is not None:
            self.result.given_to = first.name
            for key, value in found.items():
                self.result.first_input.setdefault(key, []).append(value)

    def begin(self, seen: Seen, place: Place, is_output: bool, step: int) -> Site:
        x, axis = self.arranged(seen)
        site = Site(
            seen.name,
            seen.role,
            seen.operator,
            x.shape,
            axis,
            str(seen.y.dtype).removeprefix("torch."),
            is_output,
            place,
            {key: [] for key in (*SERIES, *WHERE_SEEN)},
            has_dead_zone=statistics.rectifies(seen),
            is_bounded=statistics.slopes(seen) is not None,
        )
        for _ in range(step):
            self.absent(site)
        return site

    def absent(self, site: Site) -> None:
        site.effective_rank = None
        for key in SERIES:
            site.series[key].append(0 if "nonfinite" in key else float("nan"))

    def add(self, seen: Seen, site: Site, gradient: Tensor | None, scale: int) -> None:
        x, axis = self.arranged(seen)
        series = site.series
        series["forward_rms"].append(statistics.rms(x))
        series["variation"].append(statistics.variation(x))
        series["correlation"].append(statistics.correlation(x))
        series["forward_nonfinite"].append(statistics.nonfinite(x))
        series["forward_peak"].append(statistics.peak(x))
        g = None if gradient is None else numbers(gradient)
        series["backward_rms"].append(float("nan") if g is None else statistics.rms(g) * scale)
        if gradient is not None and gradient.dtype == torch.float16:
            series["backward_subnormal"].append(subnormal(gradient))
        series["backward_nonfinite"].append(0 if g is None else statistics.nonfinite(g))
        attention = statistics.attention(seen, self.fused)
        if attention is not None:
            series["logit_peak"].append(attention[0])
            series["entropy"].append(attention[1])
        site.effective_rank = statistics.effective_rank(x, axis)
        self.note(seen, site)

    def more(self, batches: Sequence[Any]) -> None:
        """Further batches, as long as something is counted that was seen too rarely."""
        counted = [s for s in self.result.sites.values() if s.has_dead_zone or s.is_bounded]
        for batch in batches[:MORE]:
            if all(sum(u.shape[1] for u in site.units) >= WANTED for site in counted):
                return
            # Without a backward pass; with a graph, which some models need for their forward pass.
            with capturing(self.model) as capture:
                self.step(self.model, batch)
            for seen in capture.sites:
                if seen.name in self.result.sites:
                    self.note(seen, self.result.sites[seen.name])

    def measure_noise(self, batches: Sequence[Any], *, weights_moved: bool) -> None:
        whole = samples_of(batches[0])
        half = whole // 2
        if half == 0:
            return
        small, big = [], []
        for number, batch in enumerate(batches):
            small.append(self.squared_gradient(part_of(batch, whole, slice(0, 2 * half, 2)), half))
            if weights_moved:
                big.append(self.squared_gradient(batch, whole))
                continue
            norms = [p["gradient_norm"][number] for p in self.result.parameters.values()]
            samples = 1 if self.reduction == "mean" else whole
            big.append(sum(norm**2 for norm in norms if norm is not None) / samples**2)
        means = float(np.mean(small)), float(np.mean(big))
        self.result.noise = Noise(len(batches), half, whole, *means)

    def squared_gradient(self, batch: Any, samples: int) -> float:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        with without_checkpoints():
            loss = self.step(self.model, batch)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        scale = 1 if self.reduction == "mean" else samples
        return sum(float((numbers_of(g) ** 2).sum()) for g in found if g is not None) / scale**2


def owners(model: nn.Module, parameter: nn.Parameter) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if any(p is parameter for p in module._parameters.values())
    ]


def measure(
    model: nn.Module,
    batches: Sequence[Any],
    step: Step,
    *,
    axes: Axes,
    steps: int,
    build_optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    reduction: str = "mean",
    fused: bool = False,
    seed: int = 0,
    noise: bool = True,
) -> Reference:
    """What a profile over ``steps`` of the batches has to say, the further batches included."""
    measuring = Measuring(model, step, axes, reduction, fused)
    measuring.fed = fed_by_the_batch(model, step, batches)
    model = measuring.model
    named = dict(model.named_parameters())
    optimizer = build_optimizer(model.parameters()) if build_optimizer else None
    entries: dict[str, Numbers] = {
        name: {
            "shape": tuple(p.shape),
            "trainable": p.requires_grad,
            "weight_norm": float(np.linalg.norm(numbers_of(p))),
            "nonfinite": statistics.nonfinite(numbers_of(p)),
            "gradient_norm": [],
            "update_ratio": [],
        }
        for name, p in named.items()
    }
    rows = {name: Rows(p) for name, p in named.items()}
    seed_all(seed)
    drawn = [batches[i % len(batches)] for i in range(steps)]
    for batch in drawn:
        gradients = measuring.measure(batch)
        for (name, p), gradient in zip(named.items(), gradients, strict=True):
            norm = None if gradient is None else float(np.linalg.norm(numbers_of(gradient)))
            entries[name]["gradient_norm"].append(norm)
            rows[name].compare(gradient)
            p.grad = gradient
        if optimizer is not None:
            old = {name: numbers_of(p).copy() for name, p in named.items()}
            optimizer.step()
            for name, p in named.items():
                moved = float(np.linalg.norm(numbers_of(p) - old[name]))
                length = float(np.linalg.norm(old[name]))
                ratio = moved / length if length else (float("inf") if moved else 0.0)
                entries[name]["update_ratio"].append(ratio)
        for p in named.values():
            p.grad = None
    measuring.more(batches[steps:])
    measuring.result.parameters = entries
    if noise:
        moved = optimizer is not None
        measuring.measure_noise(drawn[: min(NOISE, len(batches))], weights_moved=moved)
    for name, entry in entries.items():
        entry["duplicate_rows"] = rows[name].duplicates
        entry["symmetric_rows"] = rows[name].symmetric
        entry["row_spread"] = rows[name].spread
        arrived = any(norm is not None for norm in entry["gradient_norm"])
        entry["reached"] = arrived or any(
            owner in measuring.called for owner in owners(model, named[name])
        )
    return measuring.result


def numbers_of(value: Tensor) -> Array:
    """A parameter or its gradient; a complex number is two."""
    value = value.detach()
    return numbers(torch.view_as_real(value) if value.is_complex() else value)


__all__ = ["Axes", "Capture", "Reference", "Site", "call_model", "measure", "tensors"]
