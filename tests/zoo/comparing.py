"""Holds a profile against the reference, number by number."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from gradscope.records import ParameterProfile, Profile, SiteProfile
from tests.zoo.families import Family
from tests.zoo.reference import SERIES, WHERE_SEEN, Reference, Site

RELATIVE = 1e-5
"""Both sides reduce the model's own float32 tensors in float64; gradients may be added in another
order."""

STORED = 1e-7
"""An update is what the stored weights moved by, and a float32 is rounded by this much of it."""


@dataclass
class Comparison:
    """How many numbers were compared, the worst of them, and what disagrees."""

    family: str
    compared: int = 0
    largest: float = 0.0
    where: str = ""
    faults: list[str] = field(default_factory=list)

    def _fault(self, where: str, got: Any, expected: Any) -> None:
        self.faults.append(f"{where}: {got!r}, the reference says {expected!r}")

    def equal(self, where: str, got: Any, expected: Any) -> None:
        self.compared += 1
        if got != expected:
            self._fault(where, got, expected)

    def near(self, where: str, got: Any, expected: Any, scale: float = 0.0) -> None:
        """``scale``: of what the number is a difference of, where it is one."""
        self.compared += 1
        if got is None or expected is None or not math.isfinite(expected):
            same = got == expected or (got != got and expected != expected)
            if not same:
                self._fault(where, got, expected)
            return
        difference = abs(got - expected)
        size = max(abs(expected), scale)
        relative = difference / size if size else (math.inf if difference else 0.0)
        if relative > self.largest:
            self.largest, self.where = relative, where
        if not relative < RELATIVE:
            self._fault(where, got, expected)

    def series(self, where: str, got: Any, expected: Any, scale: float = 0.0) -> None:
        if len(got) != len(expected):
            self._fault(where, got, expected)
            return
        for step, (one, other) in enumerate(zip(got, expected, strict=True)):
            self.near(f"{where} step {step}", one, other, scale)


def compare(profile: Profile, reference: Reference, family: Family) -> Comparison:
    """Everything that the reference knows."""
    held = Comparison(family.name)
    held.series("losses", profile.losses, reference.losses)
    held.series("input_variation", profile.input_variation, reference.input_variation)
    held.series("output_variation", profile.output_variation, reference.output_variation)
    compare_input(held, profile, reference)
    held.equal("batch_size", profile.batch_size, reference.batch_size)
    held.equal("reduction", profile.reduction, family.reduction)
    names = [site.name for site in profile.sites]
    held.equal("sites", names, list(reference.sites))
    for index, got in enumerate(profile.sites):
        held.equal(f"{got.name} index", got.index, index)
        if got.name in reference.sites:
            compare_site(held, got, reference.sites[got.name], family)
    held.equal("parameters", [p.name for p in profile.parameters], list(reference.parameters))
    for entry in profile.parameters:
        if entry.name in reference.parameters:
            compare_parameter(held, entry, reference.parameters[entry.name], family)
    compare_noise(held, profile, reference)
    return held


def compare_input(held: Comparison, profile: Profile, reference: Reference) -> None:
    # The reference looks at the first site alone.
    first = profile.sites[0].name if profile.sites else ""
    given = next((each for each in profile.first_inputs if each.site == first), None)
    held.equal("first_input", None if given is None else given.site, reference.given_to)
    if given is not None:
        for key, expected in reference.first_input.items():
            held.series(f"first_input {key}", getattr(given, key), expected)


def compare_site(held: Comparison, got: SiteProfile, expected: Site, family: Family) -> None:
    for key in ("operator", "shape", "unit_axis", "dtype"):
        held.equal(f"{got.name} {key}", getattr(got, key), getattr(expected, key))
    held.equal(f"{got.name} role", got.role.value, expected.role)
    if family.step is None:
        held.equal(f"{got.name} is_output", got.is_output, expected.is_output)
    depth = family.depths.get(got.name, expected.place.depth)
    held.equal(f"{got.name} depth", got.depth, depth)
    hidden = any(fnmatchcase(got.name, pattern) for pattern in family.recomputed)
    held.equal(f"{got.name} branch", got.branch, expected.place.branch and not hidden)
    held.equal(f"{got.name} joins", got.joins, None if hidden else expected.place.joins)
    for key in (*SERIES, *WHERE_SEEN):
        held.series(f"{got.name} {key}", getattr(got, key), expected.series[key])
    totals = expected.totals()
    for key in (
        "observations",
        "dead",
        "always_positive",
        "saturated",
        "dormant",
        "zeros",
        "time_steps",
    ):
        held.equal(f"{got.name} {key}", getattr(got, key), totals[key])
    held.near(f"{got.name} effective_rank", got.effective_rank, totals["effective_rank"])


def compare_parameter(
    held: Comparison, got: ParameterProfile, expected: dict[str, Any], family: Family
) -> None:
    for key in ("shape", "trainable", "reached", "nonfinite", "duplicate_rows", "symmetric_rows"):
        held.equal(f"{got.name} {key}", getattr(got, key), expected[key])
    held.near(f"{got.name} weight_norm", got.weight_norm, expected["weight_norm"])
    held.near(f"{got.name} row_spread", got.row_spread, expected["row_spread"], 1.0)
    is_rounding = any(fnmatchcase(got.name, pattern) for pattern in family.rounding)
    scale = 1.0 if is_rounding else 0.0
    held.series(f"{got.name} gradient_norm", got.gradient_norm, expected["gradient_norm"], scale)
    scale = max(scale, STORED / RELATIVE)
    held.series(f"{got.name} update_ratio", got.update_ratio, expected["update_ratio"], scale)


def compare_noise(held: Comparison, profile: Profile, reference: Reference) -> None:
    got, expected = profile.gradient_noise, reference.noise
    held.equal("gradient noise", got is None, expected is None)
    if got is None or expected is None:
        return
    held.equal("noise batches", got.batches, expected.batches)
    held.equal("noise samples", got.samples, expected.samples)
    held.near("noise squared_norm", got.squared_norm, expected.squared_norm, expected.big)
    scale = expected.big / (1 / expected.samples - 1 / expected.whole)
    held.near("noise covariance", got.covariance, expected.covariance, scale)
