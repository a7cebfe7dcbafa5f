"""GS206: the scale of activations over depth, at the first step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, Role, Severity, SiteProfile
from gradscope.rules.activation_scale import ActivationScale
from tests.gradscope.rules.making import layer, profile

RULE = ActivationScale()

LOGITS = LossCall("cross_entropy", "", 10, -1.0, 1.0, 0.0, 9.0, True, math.log(10), (2.3,) * 8)


def scaled(name: str, index: int, *rms: float, **changed: Any) -> SiteProfile:
    series = rms * 8 if len(rms) == 1 else rms
    return layer(name, index, forward_rms=series, **changed)


def check(*sites: SiteProfile, loss_call: LossCall | None = None) -> Finding | None:
    found = RULE.check(profile(*sites, loss_call=loss_call), RULE.limits)
    assert found is None or isinstance(found, Finding)
    return found


def test_growth_and_decay() -> None:
    grown = check(scaled("a", 0, 1.0), scaled("b", 1, 50.0), scaled("c", 2, 2e3))
    assert grown is not None
    assert (grown.severity, grown.sites) == (Severity.ERROR, ("c",))
    shrunk = check(scaled("a", 0, 1.0), scaled("b", 1, 2e-4), scaled("c", 2, 5e-4))
    assert shrunk is not None
    assert (shrunk.severity, shrunk.sites) == (Severity.WARNING, ("b", "c"))
    assert "0.0002 times those at a" in shrunk.message


def test_what_training_soon_mends_is_found_all_the_same() -> None:
    late = (5e3, *(10.0,) * 7)
    assert check(scaled("a", 0, 1.0), scaled("b", 1, *late)) is not None
    assert check(scaled("a", 0, 1.0), scaled("b", 1, *late[::-1])) is None


def test_a_residual_branch_shows_how_large_its_trunk_is() -> None:
    branch = scaled("branch", 1, 5e3, branch=True)
    assert check(scaled("a", 0, 1.0), branch, scaled("c", 2, 1.0)) is not None
    small = scaled("branch", 1, 1e-5, branch=True)
    assert check(scaled("a", 0, 1.0), small, scaled("c", 2, 1.0)) is None


def test_outputs_count_where_they_are_logits() -> None:
    sites = (scaled("a", 0, 1.0), scaled("out", 1, 1e4, is_output=True))
    assert check(*sites) is None
    assert check(*sites, loss_call=LOGITS) is not None


@pytest.mark.parametrize(
    "sites",
    [
        (scaled("a", 0, 1.0), scaled("b", 1, 1e-4), scaled("c", 2, 1.0)),
        (scaled("a", 0, 1.0), scaled("b", 1, 0.0)),
        (scaled("a", 0, 0.0), scaled("b", 1, 1.0)),
        (scaled("a", 0, math.nan), scaled("b", 1, 1.0)),
        (scaled("a", 0, 1.0), scaled("b", 1, math.inf)),
        (
            scaled("tokens", 0, 5e-4, role=Role.EMBEDDING),
            scaled("norm", 1, 1.0, role=Role.NORMALISATION),
            scaled("b", 2, 2.0),
        ),
        (layer("out", 0, is_output=True),),
    ],
    ids=["recovers", "zeros", "from zero", "nan", "infinite", "small embedding", "output alone"],
)
def test_no_finding(sites: tuple[SiteProfile, ...]) -> None:
    assert check(*sites) is None
