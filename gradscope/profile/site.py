"""What has been gathered at one site so far, and the SiteProfile it makes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from gradscope.profile.sums import Sums
from gradscope.records import LayerInput, Role, SiteProfile

__all__ = ["Site", "observable", "recomputing", "unobservable"]

# A unit is saturated when its elements are on at least this share of the observations.
_SATURATED_OBSERVATIONS = 0.95

# Units this quiet beside the mean of their site are dormant (Sokar et al. 2023, section 3).
_DORMANT = 0.025


@dataclass
class Site:
    """One place in the model, over all steps.

    Attributes:
        name, role, operator, shape, unit_axis, dtype, depth, is_output, branch, joins: as of
            SiteProfile.
        held: rows seen here at this step, and samples in the batch here.
        unplaced: whether several processes each saw rows that a router picked for it.
        series: by measure and step.
        totals: what is counted over all steps.
    """

    name: str
    role: Role
    operator: str
    shape: tuple[int, ...]
    unit_axis: int
    dtype: str
    depth: int = 0
    is_output: bool = False
    branch: bool = False
    joins: str | None = None
    held: tuple[int, int] = (0, 1)
    unplaced: bool = False
    series: dict[tuple[str, int], float] = field(default_factory=dict)
    totals: Sums = field(default_factory=dict)

    def add(self, sums: Sums) -> None:
        """Counts what one more pass has shown."""
        for name, value in sums.items():
            known = self.totals.get(name)
            if known is None or known.shape == value.shape:
                self.totals[name] = value if known is None else known + value

    def copy_of_facts(self) -> Site:
        """The site without what was gathered: for a process that did not reach it."""
        return replace(self, series={}, totals={})

    @property
    def counts_units(self) -> bool:
        """Whether rules ask on how many observations its units were seen."""
        return "positive" in self.totals or "saturated" in self.totals

    @property
    def observations(self) -> int:
        return round(float(self.totals["observations"])) if "observations" in self.totals else 0

    def profile(self, index: int, steps: int) -> SiteProfile:
        """The record of what was seen in all the steps."""
        series = partial(self._series, steps=steps)

        def counts(what: str) -> tuple[int, ...]:
            return tuple(round(self.series.get((what, step), 0)) for step in range(steps))

        def where_seen(what: str) -> tuple[float, ...]:
            return series(what) if self._seen(what) else ()

        totals, observations = self.totals, self.observations
        dead = always_positive = saturated = dormant = None
        if "positive" in totals:
            dead = _share(totals["positive"] == 0)
            always_positive = _share(totals["nonpositive"] == 0)
        if "saturated" in totals:
            saturated = _share(totals["saturated"] >= _SATURATED_OBSERVATIONS * observations)
        if "magnitude" in totals and self.role is Role.ACTIVATION:
            magnitude = totals["magnitude"]
            dormant = _share(magnitude <= _DORMANT * magnitude.mean())
        ranks = [rank for rank in where_seen("effective_rank") if not math.isnan(rank)]
        elements = totals["count"]
        return SiteProfile(
            name=self.name,
            role=self.role,
            operator=self.operator,
            index=index,
            shape=self.shape,
            unit_axis=self.unit_axis,
            is_output=self.is_output,
            forward_rms=series("forward_rms"),
            variation=series("variation"),
            correlation=series("correlation"),
            backward_rms=series("backward_rms"),
            forward_nonfinite=counts("forward_nonfinite"),
            backward_nonfinite=counts("backward_nonfinite"),
            observations=observations,
            dead=dead,
            always_positive=always_positive,
            saturated=saturated,
            depth=self.depth,
            branch=self.branch,
            joins=self.joins,
            dtype=self.dtype,
            forward_peak=series("forward_peak"),
            zeros=float(totals["zeros"] / elements),
            dormant=dormant,
            effective_rank=ranks[-1] if ranks else None,
            logit_peak=where_seen("logit_peak"),
            entropy=where_seen("entropy"),
            backward_subnormal=where_seen("backward_subnormal"),
            time_steps=int(max(self._seen("time_steps"), default=0)),
            time_decay=where_seen("time_decay"),
        )

    def given(self, steps: int) -> LayerInput | None:
        """The record of its input, where that was looked at."""
        if self.role is not Role.LAYER or not self._seen("input_rms"):
            return None
        series = partial(self._series, steps=steps)
        return LayerInput(
            self.name, series("input_rms"), series("input_peak"), series("feature_spread")
        )

    def _series(self, what: str, steps: int) -> tuple[float, ...]:
        return tuple(self.series.get((what, step), math.nan) for step in range(steps))

    def _seen(self, what: str) -> list[float]:
        """The values of a measure that there are, of any step."""
        return [value for (name, _), value in self.series.items() if name == what]


def _share(mask: Tensor) -> float:
    """The share of units for which a mask of units holds."""
    return int(mask.sum()) / mask.numel()


def recomputing() -> bool:
    """Whether this forward runs inside a backward pass, as activation checkpointing does."""
    return torch._C._current_graph_task_id() != -1


def unobservable(x: Tensor) -> str:
    """Why no statistics can be taken of what a layer returned; empty for mere numbers of rows."""
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "torch.func shows no values of what runs inside vmap and its like"
    if x.is_complex():
        return "its output is complex, which is not measured"
    if x.is_nested or x.layout is not torch.strided:
        return "its output is sparse or nested, which is not measured"
    return ""


def observable(x: Tensor) -> bool:
    """Whether statistics can be taken of a tensor."""
    return x.is_floating_point() and not unobservable(x)
