"""Which units are dead, always positive or saturated, over the observations of several samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradscope.training import WatchedSite

__all__ = ["Tallies"]

# Units are called dead or saturated over this many observations, of several batches.
_OBSERVATIONS = 2000
_BATCHES = 4

# Where nearly all units are dead fewer tell: one that is on in a hundredth of cases hides from so
# many with a probability of 8 %, nine tenths of a layer do not. A layer that dies in the midst of
# a training would have to wait for thousands of observations else.
_FEW_OBSERVATIONS = 256
_NEARLY_ALL = 0.9

# Of the observations of a unit, as in profiles.
_SATURATED = 0.95

Array = np.ndarray[Any, Any]


class Tallies:
    """Counts units over as many samples as it takes to tell.

    Attributes:
        any_bounded: whether saturation is counted anywhere.
    """

    def __init__(self, sites: Sequence[WatchedSite]) -> None:
        counts = np.array([site.counted_units for site in sites], dtype=np.int64)
        self._sites = np.flatnonzero(counts)
        self._owner = np.repeat(np.arange(len(sites)), counts)
        self._starts = np.cumsum(counts)[self._sites] - counts[self._sites]
        self._units = counts[self._sites]
        self._zone = np.array([site.dead_zone for site in sites], dtype=bool)
        self._bounded = np.array([site.bounded for site in sites], dtype=bool)
        self.any_bounded = bool(self._bounded.any())
        units = len(self._owner)
        self._long = _Windows(units, len(sites), _OBSERVATIONS)
        self._short = _Windows(units, len(sites), _FEW_OBSERVATIONS)

    def add(
        self, observations: Array, positive: Array, nonpositive: Array, saturated: Array
    ) -> None:
        """Counts what a sample has shown.

        Args:
            observations: (2, sites); of each unit, and those compared with bounds.
            positive, nonpositive: bool (units); whether any observation was, or was not.
            saturated: (units); how often it was. Empty where nothing is bounded.
        """
        for window in (self._long.now, self._short.now):
            window.seen[:2] += observations
            window.seen[2] += observations[0] > 0
            window.positive |= positive
            window.nonpositive |= nonpositive
            if self.any_bounded:
                window.saturated += saturated

    def shares(self) -> Array:
        """Of units (sites, 3): dead, always positive, saturated; NaN where too little was seen."""
        shares, late = self._shares(self._long), self._shares(self._short)
        nearly_all = late[:, 0] >= _NEARLY_ALL
        shares[nearly_all, :2] = late[nearly_all, :2]
        return shares

    def _shares(self, windows: _Windows) -> Array:
        shares = np.full((len(self._zone), 3), np.nan)
        now, before = windows.now, windows.before
        known = windows.full(now.seen + before.seen)
        if not known.any():
            return shares
        masks = [now.positive | before.positive, now.nonpositive | before.nonpositive]
        if self.any_bounded:
            limits = _SATURATED * (now.seen[1] + before.seen[1])
            masks.append(now.saturated + before.saturated < limits[self._owner])
        counts = np.add.reduceat(np.array(masks), self._starts, axis=1, dtype=np.float64)
        found = np.full((len(self._zone), len(masks)), np.nan)
        found[self._sites] = (1.0 - counts / self._units).T
        shares[:, : len(masks)] = found
        shares[~(self._zone & known), :2] = np.nan
        shares[~(self._bounded & known), 2] = np.nan
        over = windows.full(now.seen)
        if over.any():
            now.hand_over(before, over, over[self._owner])
        return shares


class _Windows:
    """Two windows that take turns, so that one is always full once it has been."""

    def __init__(self, units: int, sites: int, observations: int) -> None:
        self._observations = observations
        self.now, self.before = _Window(units, sites), _Window(units, sites)

    def full(self, seen: Array) -> Array:
        """At which sites that is enough."""
        enough: Array = (seen[0] >= self._observations) & (seen[2] >= _BATCHES)
        return enough


class _Window:
    """What was seen.

    Attributes:
        seen: (3, sites): observations of each unit, those compared with bounds, samples.
        positive, nonpositive, saturated: (units), as in ``Tallies.add``.
    """

    def __init__(self, units: int, sites: int) -> None:
        self.seen = np.zeros((3, sites))
        self.positive, self.nonpositive = np.zeros((2, units), dtype=bool)
        self.saturated = np.zeros(units)

    def hand_over(self, other: _Window, sites: Array, units: Array) -> None:
        """What was seen at these sites becomes the other's, and is forgotten here."""
        other.seen[:, sites] = self.seen[:, sites]
        self.seen[:, sites] = 0
        for name in ("positive", "nonpositive", "saturated"):
            getattr(other, name)[units] = getattr(self, name)[units]
            getattr(self, name)[units] = 0
