"""What a loss is measured by: that of the best prediction that is the same for all samples."""

from __future__ import annotations

import math
import statistics

from gradscope.records import Profile, Source

__all__ = ["UNKNOWN_LOSS", "constant_loss", "constant_losses", "loss_over_constant"]


UNKNOWN_LOSS = "the loss is none of torch's, so what a guess would get is not known"
"""Why a rule that measures the loss by it has to be skipped."""


def constant_losses(profile: Profile) -> list[float]:
    """The loss of the best constant prediction at each step for which it is known."""
    known = profile.loss_call.constant if profile.loss_call is not None else ()
    return [value for value in known if math.isfinite(value)]


def constant_loss(profile: Profile) -> float | None:
    """The loss of the best constant prediction, mean over the steps; None where it is not known."""
    known = constant_losses(profile)
    return statistics.fmean(known) if known else None


def loss_over_constant(profile: Profile) -> float | None:
    """The loss over that of the best constant prediction: 1 where nothing has been learned.

    Median over steps; None where that is not known: for other losses than torch's, and for
    made-up data.
    """
    call = profile.loss_call
    if call is None or profile.source is Source.SYNTHETIC:
        return None
    ratios = [
        loss / constant
        for loss, constant in zip(profile.losses, call.constant, strict=False)
        if constant > 0 and loss == loss
    ]
    return statistics.median(ratios) if ratios else None
