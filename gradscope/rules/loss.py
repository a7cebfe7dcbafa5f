"""The loss over the steps, as several rules read it."""

from __future__ import annotations

import math

from gradscope.records import Profile

__all__ = ["at_the_output", "most_moved"]


def at_the_output(profile: Profile) -> tuple[str, ...]:
    """Where a fault of the loss is to be looked for: the model's outputs, or its last site.

    Where a model has no site at all, its last parameter stands for them.
    """
    outputs = tuple(site.name for site in profile.sites if site.is_output)
    sites = tuple(site.name for site in profile.sites[-1:])
    return outputs or sites or tuple(parameter.name for parameter in profile.parameters[-1:])


def most_moved(profile: Profile) -> tuple[str, ...]:
    """The weight that the updates change most, by its largest relative one.

    Biases are looked at only where there is nothing else: they start near zero, which makes every
    update of them a large one.
    """
    moved = [
        (len(parameter.shape) > 1, max(finite), parameter.name)
        for parameter in profile.parameters
        if (finite := [ratio for ratio in parameter.update_ratio if math.isfinite(ratio)])
    ]
    return (max(moved)[2],) if moved else at_the_output(profile)
