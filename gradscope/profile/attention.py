"""Scores of attention: how large they get, and how much their softmax spreads."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor

from gradscope.profile import statistics
from gradscope.profile.sums import PEAKS, Place, Sums

__all__ = ["fused_score_sums", "score_numbers", "score_sums"]

_ROWS = 1 << 17

# Masks add -inf, the lowest number of a type, -1e9 or -1e4; the last is rounded in short types.
_MASKED = -9e3


def score_sums(scores: Tensor, place: Place | None) -> Sums:
    """What is summed of scores (..., queries, keys) before their softmax over the last dimension.

    Masked ones are -inf or very low; a query that sees no key counts for nothing.
    """
    scores = scores.detach()
    rows = scores.reshape(-1, scores.shape[-1])
    entropy, queries, highest = (
        torch.zeros((), dtype=statistics.wide(scores), device=scores.device) for _ in range(3)
    )
    for part in rows.split(max(1, _ROWS // max(1, rows.shape[1]))):
        wide = part.to(entropy.dtype)
        spread = torch.special.entr(wide.softmax(dim=-1)).sum(dim=-1)
        known = ~spread.isnan()
        entropy += spread.where(known, 0).sum()
        queries += known.sum()
        size = wide.abs().where((wide > _MASKED) & wide.isfinite(), 0)
        highest = torch.maximum(highest, size.amax())
    peaks = highest.new_zeros(1 if place is None else place.processes)
    peaks[0 if place is None else place.process] = highest
    return {"entropy": entropy, "queries": queries, PEAKS: peaks}


def score_numbers(sums: Sums) -> dict[str, Tensor]:
    """The numbers of a profile that the sums over all scores make."""
    return {"entropy": sums["entropy"] / sums["queries"], "logit_peak": sums[PEAKS].amax()}


def _signature(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> None:
    """As of ``scaled_dot_product_attention``, which has none that can be read."""


def fused_score_sums(args: tuple[Any, ...], kwargs: dict[str, Any], place: Place | None) -> Sums:
    """As :func:`score_sums`, of a call of ``scaled_dot_product_attention``, computed beside it."""
    bound = inspect.signature(_signature).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    query, key, mask = given["query"].detach(), given["key"].detach(), given["attn_mask"]
    if given["enable_gqa"]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scale = given["scale"] or 1 / math.sqrt(query.shape[-1])
    shape = (*query.shape[:-1], key.shape[-2])
    if given["is_causal"]:
        mask = torch.ones(shape[-2:], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        mask = mask.detach().expand(shape).reshape(-1, *shape[-2:])
    queries, keys = (
        query.reshape(-1, *query.shape[-2:]),
        key.expand(*query.shape[:-2], *key.shape[-2:]).reshape(-1, *key.shape[-2:]),
    )
    total: Sums = {}
    # One head of one sample at a time: the whole is what the fused kernel is there to avoid.
    for number in range(len(queries)):
        scores = (
            queries[number].to(statistics.wide(query)) @ keys[number].to(statistics.wide(query)).mT
        )
        scores = scores * scale
        if mask is not None:
            scores = (
                scores.masked_fill(~mask[number], -math.inf)
                if mask.dtype == torch.bool
                else scores + mask[number]
            )
        for name, value in score_sums(scores, place).items():
            both = torch.maximum if name == PEAKS else torch.add
            total[name] = both(total[name], value) if name in total else value
    return total
