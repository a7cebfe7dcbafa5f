"""The gradients of parameters, as several rules read them."""

from __future__ import annotations

import math

from gradscope.records import Profile

__all__ = ["norms"]


def norms(profile: Profile) -> list[float]:
    """Per step the norm of the gradient of all parameters together, before any clipping."""
    return [
        math.hypot(*(entry.gradient_norm[step] or 0.0 for entry in profile.parameters))
        for step in range(profile.steps)
    ]
