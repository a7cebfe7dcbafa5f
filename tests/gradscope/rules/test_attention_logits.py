"""GS601: how sharp attention is, against what the model has learned."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gradscope.records import Finding, LossCall, Role, Severity, SiteProfile, Source
from gradscope.rules.attention_logits import AttentionLogits
from tests.gradscope.rules.making import profile, site

RULE = AttentionLogits()

CHANCE = LossCall("cross_entropy", "", 10, -1.0, 1.0, 0.0, 9.0, True, 2.3, (2.3,) * 8)


def attention(entropy: float, peak: float, name: str = "softmax", **changed: Any) -> SiteProfile:
    entries: dict[str, Any] = {
        "role": Role.ATTENTION,
        "operator": "softmax",
        "shape": (64, 2, 24, 24),
        "entropy": (entropy,) * 8,
        "logit_peak": (peak,) * 8,
    }
    return site(name, 1, **(entries | changed))


def check(*sites: SiteProfile, **changed: Any) -> Finding | None:
    found = RULE.check(profile(*sites, **changed), RULE.limits)
    assert found is None or isinstance(found, Finding)
    return found


def test_one_token_gets_it_all() -> None:
    finding = check(attention(0.05, 90.0), attention(2.9, 2.0, "other"))
    assert finding is not None
    assert (finding.severity, finding.sites) == (Severity.ERROR, ("softmax",))
    assert "an entropy of 0.05 nat over 24 keys (limit 0.1)" in finding.message


def test_sharp_before_anything_is_learned() -> None:
    both = attention(1.0, 20.0), attention(0.9, 30.0, "other")
    finding = check(*both, loss_call=CHANCE)
    assert finding is not None
    assert finding.sites == ("softmax", "other")
    assert check(*both) is None, "whether anything is learned is not known"
    assert check(*both, loss_call=CHANCE, losses=(1.5,) * 8) is None
    assert check(both[0], attention(2.9, 20.0, "other"), loss_call=CHANCE) is None


def test_what_has_learned_may_be_sharp() -> None:
    assert check(attention(0.05, 90.0), loss_call=CHANCE, losses=(0.3,) * 8) is None


def test_scores_that_grow() -> None:
    finding = check(attention(2.0, 1.0, logit_peak=tuple(5.0 * 2**step for step in range(8))))
    assert finding is not None
    assert (finding.severity, finding.since) == (Severity.WARNING, 4)
    small = tuple(0.1 * 2**step for step in range(8))
    assert check(attention(2.0, 1.0, logit_peak=small)) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"entropy": (), "logit_peak": ()},
        {"logit_peak": (2.0,) * 8},
        {"shape": (64, 2, 24, 1)},
        {"is_output": True},
        {"entropy": (math.nan,) * 8, "logit_peak": (math.nan,) * 8},
        {"operator": "scaled_dot_product_attention", "shape": (64, 2, 1, 16)},
    ],
    ids=["unseen", "masked", "one key", "output", "nan", "fused, one token"],
)
def test_no_finding(changed: dict[str, Any]) -> None:
    assert check(replace(attention(0.0, 90.0), **changed), loss_call=CHANCE) is None


def test_made_up_data_say_nothing_of_what_is_learned() -> None:
    assert check(attention(0.05, 90.0), source=Source.SYNTHETIC) is None


def test_without_attention_there_is_nothing_to_look_at() -> None:
    assert check() is None
