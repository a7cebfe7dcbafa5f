"""GS402: outputs near the largest number and gradients near the smallest fire."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import Finding, Severity
from gradscope.rules.dtype_headroom import DtypeHeadroom
from tests.gradscope.rules.making import layer, profile, site

RULE = DtypeHeadroom()
HALF: dict[str, Any] = {"dtype": "float16", "backward_subnormal": (0.0,) * 8}
NONE = (0.0,) * 8
ALL_LOST: dict[str, Any] = {"backward_rms": NONE, "backward_subnormal": (math.nan,) * 8}


def check(*changes: dict[str, Any], **changed: Any) -> Finding | None:
    """Of a float16 model with these sites, the last one nearest to the loss."""
    sites = [site(str(index), index, **(HALF | change)) for index, change in enumerate(changes)]
    return RULE.check(profile(*sites, **changed), RULE.limits)


@pytest.mark.parametrize(
    ("peak", "severity"),
    [(100.0, None), (9e3, None), (2e4, Severity.WARNING), (6.5e4, Severity.ERROR)],
)
def test_outputs_near_the_largest_number(peak: float, severity: Severity | None) -> None:
    finding = check({"forward_peak": (*(1.0,) * 3, peak, *(1.0,) * 4)})
    assert (finding and finding.severity) == severity
    assert finding is None or finding.since == 3


@pytest.mark.parametrize(("peak", "fires"), [(100.0, False), (400.0, True)])
def test_squares_that_have_overflowed(peak: float, fires: bool) -> None:
    broken = {"forward_nonfinite": (0, *(9,) * 7), "forward_peak": (1.0, *(0.0,) * 7)}
    finding = check({"forward_peak": (peak,) * 8}, broken, broken)
    assert (finding is not None) is fires
    assert finding is None or (finding.sites, finding.since) == (("1",), 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_wide_types_have_room(dtype: str) -> None:
    assert check({"dtype": dtype, "forward_peak": (1e30,) * 8, "backward_subnormal": ()}) is None


@pytest.mark.parametrize(
    ("share", "severity"), [(0.05, None), (0.3, Severity.WARNING), (0.8, Severity.ERROR)]
)
def test_gradients_near_the_smallest_number(share: float, severity: Severity | None) -> None:
    finding = check({"backward_subnormal": (share,) * 8}, {})
    assert (finding and finding.severity) == severity


def test_gradients_that_are_all_lost_behind_ones_that_fade() -> None:
    finding = check(ALL_LOST, ALL_LOST, {"backward_subnormal": (0.4,) * 8}, {})
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert finding.sites == ("0", "1", "2")
    assert check(ALL_LOST, {}) is None, "dead units have zeros, too"


def test_gradients_that_are_all_lost_at_the_loss() -> None:
    assert check(ALL_LOST) is not None
    assert check(ALL_LOST, losses=NONE) is None, "a loss of zero has no gradient"


def test_few_steps_unreached_sites_and_nan_are_silent() -> None:
    assert check({"backward_subnormal": (0.9, *(0.0,) * 7)}) is None
    missing = (math.nan,) * 8
    assert check({"backward_rms": missing, "backward_subnormal": missing}) is None
    assert check({"forward_peak": missing}) is None
    assert check({"forward_peak": ()}) is None
    assert RULE.check(profile(layer(forward_peak=())), RULE.limits) is None
