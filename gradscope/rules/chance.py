"""Whether a model predicts better than chance yet, as several rules ask."""

from __future__ import annotations

import statistics

from gradscope.records import Profile, Source

__all__ = ["loss_over_trivial"]


def loss_over_trivial(profile: Profile) -> float | None:
    """The loss over that of the best prediction that is the same for all samples: 1 for chance.

    Median over steps; None where that is not known: for other losses than torch's, and for
    made-up data.
    """
    call = profile.loss_call
    if call is None or profile.source is Source.SYNTHETIC:
        return None
    ratios = [
        loss / trivial
        for loss, trivial in zip(profile.losses, call.trivial, strict=False)
        if trivial > 0 and loss == loss
    ]
    return statistics.median(ratios) if ratios else None
