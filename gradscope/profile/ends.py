"""What enters the model and what it returns: how much of either differs between samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradscope.batches import tensors_in
from gradscope.profile import sums
from gradscope.profile.axes import order_of, samples_first, shard_of_ordered
from gradscope.profile.exchange import Exchange
from gradscope.profile.layout import Layouts
from gradscope.profile.sharding import local, shard_of
from gradscope.profile.site import Site, observable
from gradscope.profile.sums import Sums

__all__ = ["INPUT", "OUTPUT", "Ends", "end_numbers"]

INPUT, OUTPUT = "\0input", "\0output"
"""What the sums over them are kept under; no module has such names."""


def end_numbers(found: Sums) -> dict[str, Tensor]:
    """The one number that is made of the sums."""
    return {"variation": sums.numbers(found)["variation"]}


class Ends:
    """The two ends of a model over the steps; the first time in a step counts.

    Args:
        exchange: the processes that profile the model together.
        put: takes what was summed: under which name, of what kind, over how many parts.
    """

    def __init__(self, exchange: Exchange, put: Callable[[str, str, Sums, int], None]) -> None:
        self._exchange = exchange
        self._put = put
        self._series: dict[tuple[str, int], float] = {}
        self._steps = 0
        self.begin()

    def begin(self) -> None:
        """A step begins."""
        self._seen: set[str] = set()
        self._returned: Site | None = None

    def see_input(self, x: Tensor | None, layouts: Layouts) -> None:
        if INPUT in self._seen:
            return
        self._seen.add(INPUT)
        if x is not None and x.ndim and x.numel() and observable(x):
            self._measure(INPUT, x, layouts)

    def see_output(
        self,
        output: Any,
        samples: int,
        layouts: Layouts,
        site_of: Callable[[Tensor], Site | None],
    ) -> None:
        """Looks at the first tensor of one row a sample; else at the first of several rows each.

        ``site_of`` tells which site has been seen to return a tensor: that has its variation.
        """
        if OUTPUT in self._seen:
            return
        self._seen.add(OUTPUT)
        tensors = [x for x in tensors_in(output) if x.ndim and x.numel() and observable(x)]
        rows = [x.shape[order_of(x, layouts.of(x))[0]] for x in tensors]
        fitting = [x for x, count in zip(tensors, rows, strict=True) if count == samples] or [
            x for x, count in zip(tensors, rows, strict=True) if count % samples == 0
        ]
        if fitting:
            self._returned = site_of(fitting[0])
            if self._returned is None:
                self._measure(OUTPUT, fitting[0], layouts)

    def _measure(self, end: str, x: Tensor, layouts: Layouts) -> None:
        layout = layouts.of(x)
        ordered, _ = samples_first(local(x), layout)
        shard = shard_of(x) or shard_of_ordered(x, layout)
        with torch.no_grad():
            found = sums.forward_sums(ordered, self._exchange.place(ordered, shard))
        self._put(end, end, found, 1 if shard is None else shard.parts)

    def close(self, steps: int, variations: dict[str, float]) -> None:
        """Takes what came of the step: the variation of the ends that were put.

        ``steps`` have been taken so far, this one included.
        """
        self._steps = steps
        if self._returned is not None:
            found = self._returned.series.get(("variation", steps - 1), math.nan)
            self._series[OUTPUT, steps - 1] = found
        for end, value in variations.items():
            self._series[end, steps - 1] = value

    @property
    def input_variation(self) -> tuple[float, ...]:
        """Per step; empty where the model's input is not floating point."""
        return self._variation(INPUT)

    @property
    def output_variation(self) -> tuple[float, ...]:
        """Per step; empty where nothing that the model returned has a row for each sample."""
        return self._variation(OUTPUT)

    def _variation(self, end: str) -> tuple[float, ...]:
        if not any(name == end for name, _ in self._series):
            return ()
        return tuple(self._series.get((end, step), math.nan) for step in range(self._steps))
