"""GS205: features in one direction; the direction that all samples share is none of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gradscope.profile.statistics import effective_rank
from gradscope.records import Finding, Role, Severity, SiteProfile
from gradscope.rules.rank_collapse import RankCollapse, rank_of
from tests.gradscope.rules.making import layer, profile, site

RULE = RankCollapse()


def check(*inner: SiteProfile, outputs: int = 10) -> Finding | None:
    last = layer("head", len(inner) + 1, is_output=True, shape=(64, outputs))
    found = RULE.check(profile(layer("first", 0), *inner, last), RULE.limits)
    assert found is None or isinstance(found, Finding)
    return found


def flat(name: str, index: int, rank: float | None, **changed: Any) -> SiteProfile:
    return layer(name, index, effective_rank=rank, **changed)


def test_a_single_unit_is_a_bottleneck() -> None:
    finding = check(flat("narrow", 1, None, shape=(64, 1)), flat("wide", 2, 9.0))
    assert finding is not None
    assert (finding.severity, finding.sites, finding.since) == (Severity.ERROR, ("narrow",), 0)


def test_samples_along_a_line_to_the_end() -> None:
    finding = check(flat("a", 1, 1.5), flat("b", 2, 1.4), flat("c", 3, 1.3))
    assert finding is not None
    assert finding.sites == ("a", "b", "c")
    assert finding.since == 7, "the rank is that of the last step"


@pytest.mark.parametrize(
    "rank", [rank_of(1.2, 0.5), rank_of(1.2, 0.05)], ids=["far apart", "close together"]
)
def test_the_limit_follows_how_much_samples_differ(rank: float) -> None:
    apart = 0.5 if rank > 1.5 else 0.05
    assert check(flat("a", 1, rank, variation=(apart,) * 8)) is not None
    assert check(flat("a", 1, rank_of(3.0, apart), variation=(apart,) * 8)) is None


@pytest.mark.parametrize(
    "inner",
    [
        (flat("a", 1, 1.4), flat("b", 2, 5.0)),
        (flat("a", 1, None),),
        (flat("a", 1, 1.0, variation=(math.nan,) * 8),),
        (flat("a", 1, 1.0, variation=(0.0,) * 8),),
        (flat("a", 1, 1.0, branch=True),),
        (flat("a", 1, 1.0, shape=(8, 32)),),
        (flat("picture", 1, None, shape=(64, 1, 8, 8)),),
        (flat("a", 1, 1.0, shape=(64, 32, 7, 7)),),
    ],
    ids=["rises again", "unknown", "nan", "same", "branch", "few samples", "one channel", "pixels"],
)
def test_no_finding(inner: tuple[SiteProfile, ...]) -> None:
    assert check(*inner) is None


def test_one_direction_is_all_that_two_outputs_need() -> None:
    inner = (flat("a", 1, 1.3),)
    assert check(*inner, outputs=2) is None
    assert check(*inner, outputs=3) is not None


def test_inputs_on_a_line_leave_nothing_to_collapse() -> None:
    sites = (layer("first", 0, effective_rank=1.4), flat("a", 1, 1.3))
    head = layer("head", 2, is_output=True)
    assert RULE.check(profile(*sites, head), RULE.limits) is None


def test_tokens_that_have_become_the_same() -> None:
    tokens = flat("out", 2, 1.05, shape=(64, 28, 32))
    attention = site("softmax", 1, role=Role.ATTENTION, shape=(64, 2, 28, 28))
    assert check(attention, tokens) is not None
    assert check(tokens) is None, "without attention, positions say nothing"


def test_the_rank_that_is_compared_with_is_that_of_such_features() -> None:
    generator = torch.Generator().manual_seed(0)
    features = (
        1 + 0.2 * torch.randn(100, 1, generator=generator) * torch.ones(1, 64).cumsum(1).sin()
    )
    centred = features - features.mean(dim=0)
    variation = float((centred.square().sum() / features.square().sum()).sqrt())
    measured = float(effective_rank(features.double()))
    assert measured == pytest.approx(rank_of(1.0, variation), rel=0.02)
    assert math.isnan(rank_of(1.0, 0.0))
    assert rank_of(1.0, 1.0) == pytest.approx(1.0)
