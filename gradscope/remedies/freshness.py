"""Whether weights have learned something that a remedy could destroy."""

from __future__ import annotations

import math

from gradscope.records import Profile, Role, Source

__all__ = ["is_trained"]

# Below this share of a constant prediction's loss, the model knows something of the data.
_LEARNED = 0.8

# Random rows of a weight differ in length by 1 / sqrt(2 n) of it; training makes it more. As in
# the rules that look at fresh weights only: fresh ones up to 1.2 times, trained ones from 1.9.
_SPREAD = 1.5
_ROWS = 32


def is_trained(profile: Profile) -> bool:
    """Whether the weights that were profiled are trained ones, as far as it shows.

    It shows in the first loss, where it is of a kind that is known, and else in how much the rows
    of weights differ in length.
    """
    call = profile.loss_call
    if call is not None and profile.source is not Source.SYNTHETIC and call.constant:
        loss, constant = profile.losses[0], call.constant[0]
        if constant > 0 and math.isfinite(loss):
            return loss < _LEARNED * constant
    layers = {site.module for site in profile.sites if site.role is Role.LAYER}
    spreads = [
        weight.row_spread * math.sqrt(2 * weight.elements / weight.shape[0])
        for weight in profile.parameters
        if weight.module in layers and len(weight.shape) > 1 and weight.shape[0] >= _ROWS
    ]
    return any(spread > _SPREAD for spread in spreads)
