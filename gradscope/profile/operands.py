"""What is measured of the inputs of sites, before they run and may overwrite them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.profile import attention, first_input, sums, through_time
from gradscope.profile.axes import order_of, samples_first, shard_of_ordered
from gradscope.profile.exchange import Exchange
from gradscope.profile.layout import Layouts
from gradscope.profile.operators import Mask
from gradscope.profile.sharding import local, shard_of
from gradscope.profile.site import recomputing
from gradscope.profile.sums import PEAKS, Place, Sums

__all__ = ["Noted", "Operands"]

Noted = dict[str, Sums]
"""Sums by their kind, handed from before a site runs to after."""


class Operands:
    """The inputs of the sites of one step.

    Args:
        layouts: of the step.
        exchange: the processes that profile the model together.
        counting_only: whether the step only adds to what is counted over units.
        fused_scores: whether the scores of fused attention are computed beside it.
        cannot_see: takes why something is not measured, and where.
    """

    def __init__(
        self,
        layouts: Layouts,
        exchange: Exchange,
        *,
        counting_only: bool,
        fused_scores: bool,
        cannot_see: Callable[[str, str], None],
    ) -> None:
        self._layouts = layouts
        self._exchange = exchange
        self._counting_only = counting_only
        self._fused_scores = fused_scores
        self._cannot_see = cannot_see

    def of_activation(self, z: Tensor, mask: Mask | None, *, scores: bool) -> Noted:
        """What its input shows; ``scores`` tells whether that is what attention is made of."""
        found: Noted = {}
        if recomputing() or not z.numel():
            return found
        with torch.no_grad():
            layout, place = self._layouts.of(z), self._place(z)
            if mask is not None:
                x = local(z)
                axis = samples_first(x, layout)[1]
                found["units"] = sums.saturated_sums(x, mask, order_of(x, layout), axis, place)
            if scores and not self._counting_only:
                found["scores"] = attention.score_sums(local(z), place)
        return found

    def of_fused_attention(
        self, name: str, query: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Noted:
        """As :meth:`of_activation`, of a call in the module of that name."""
        if not self._fused_scores:
            self._cannot_see(
                "its scores stay inside a fused kernel; gradscope.profile(..., attention=True) "
                "computes them beside it",
                name,
            )
        elif not self._counting_only:
            with torch.no_grad():
                place = self._place(query)
                return {"scores": attention.fused_score_sums(args, kwargs, place)}
        return {}

    def of_layer(self, x: Tensor, axis: int) -> Noted:
        """What the input of a layer shows; ``axis`` counts its features."""
        if self._counting_only or recomputing() or not x.numel():
            return {}
        place = self._exchange.place(local(x), shard_of(x) or self._layouts.of(x).shard)
        with torch.no_grad():
            found = first_input.input_sums(local(x), axis, place)
        return {"given": found | {PEAKS: self._exchange.slot(found[PEAKS])}}

    def of_recurrent(self, module: nn.RNNBase, x: Tensor | PackedSequence) -> Noted:
        """How many time steps the sequences have that a layer is given."""
        if self._counting_only or recomputing():
            return {}
        steps = through_time.steps_of(module, x)
        longest = torch.full((), steps, dtype=torch.float32, device=x.data.device)
        return {"steps": {PEAKS: self._exchange.slot(longest)}}

    def _place(self, y: Tensor) -> Place | None:
        layout = self._layouts.of(y)
        return self._exchange.place(samples_first(local(y), layout)[0], shard_of_ordered(y, layout))
