"""GS503: growth by updates fires; hard batches, first jumps and NaN do not."""

from __future__ import annotations

import math
from typing import Any

from gradscope.records import Finding, LossCall, Severity, Skipped
from gradscope.rules.loss_divergence import LossDivergence
from tests.gradscope.rules.making import profile

RULE = LossDivergence()


def check(
    losses: tuple[float, ...], after: tuple[float, ...], **changed: Any
) -> Finding | Skipped | None:
    made = profile(steps=len(losses), losses=losses, losses_after=after, **changed)
    return RULE.check(made, RULE.limits)


def growing(factor: float, *, start: int = 0, steps: int = 8) -> tuple[float, ...]:
    return tuple(2.0 * factor ** max(0, step - start) for step in range(steps))


def test_growth_from_step_to_step() -> None:
    finding = check(growing(1.3), growing(1.3, steps=9)[1:])
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.since) == (Severity.WARNING, 0)


def test_since_is_the_step_whose_update_began_it() -> None:
    finding = check(growing(3.0, start=2), growing(3.0, start=2, steps=9)[1:])
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.since) == (Severity.ERROR, 2)


def test_one_update_that_wrecks_the_network_though_the_loss_comes_back() -> None:
    losses = (2.3, 2.3, 90.0, 20.0, 2.3, 2.3, 2.3, 2.3)
    after = (2.2, 88.0, 21.0, 2.3, 2.3, 2.3, 2.3, 2.3)
    finding = check(losses, after)
    assert isinstance(finding, Finding)
    assert finding.since == 1


def test_a_jump_at_first_is_healthy() -> None:
    losses = (2.3, 2.8, 2.6, 2.4, 2.2, 2.0, 1.9, 1.8)
    assert check(losses, (2.7, 2.6, 2.4, 2.2, 2.0, 1.9, 1.8, 1.7)) is None


def test_a_hard_batch_is_no_growth() -> None:
    losses = (0.1, 0.1, 9.0, 0.1, 0.1, 9.0, 0.1, 0.1)
    assert check(losses, tuple(0.9 * loss for loss in losses)) is None


def test_small_losses_may_rise_manyfold() -> None:
    losses = (2.0, 1e-4) * 4
    assert check(losses, (1.0, 1e-2) * 4) is None


def test_updates_that_suit_their_own_batch_only() -> None:
    losses = (2.0, 2.5, 3.0, 4.0, 9.0, 10.0, 12.0, 14.0)
    after = tuple(0.5 * loss for loss in losses)
    finding = check(losses, after)
    assert isinstance(finding, Finding)
    assert finding.since == 4
    assert check(losses, after, batch_size=4) is None
    overlapping = (2.0, 2.5, 9.5, 2.5, 9.0, 10.0, 12.0, 14.0)
    assert check(overlapping, tuple(0.5 * loss for loss in overlapping)) is None


def test_what_follows_nan_does_not_count_and_what_precedes_it_does() -> None:
    nan = math.nan
    assert check((2.0, nan) * 4, (2.0, nan) * 4) is None
    assert check((2.0, math.inf) + (nan,) * 6, (math.inf,) + (nan,) * 7) is None
    assert isinstance(check((2.0, 50.0) + (nan,) * 6, (50.0,) + (nan,) * 7), Finding)


def test_losses_of_zero_or_below() -> None:
    assert check((0.0,) * 8, (0.0,) * 8) is None
    assert check((-1.0,) * 8, (-1.1,) * 8) is None


def test_what_cannot_be_known() -> None:
    assert isinstance(check((2.0,) * 4, (1.9,) * 4), Skipped)
    assert isinstance(RULE.check(profile(optimizer=None), RULE.limits), Skipped)


def test_the_first_update_of_a_fresh_adam_does_not_count_in_a_trained_model() -> None:
    losses = (1e-4, 0.2, 0.02, 0.1, 0.05, 0.02, 0.01, 0.003)
    after = (0.2, 0.02, 0.1, 0.05, 0.02, 0.01, 0.003, 0.003)
    assert isinstance(check(losses, after), Finding)
    assert check(losses, after, optimizer="Adam", epsilon=1e-8) is None
    assert check((1e-4, math.nan) * 4, (math.nan,) * 8, epsilon=1e-8) is None


def test_a_loss_that_stays_below_the_trivial_one_has_not_diverged() -> None:
    call = LossCall("mse_loss", "", 1, -1.0, 1.0, -1.0, 1.0, True, math.nan, (1.0,) * 8)
    losses = (0.001, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5)
    after = (0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5)
    assert check(losses, after, loss_call=call) is None
    grown = tuple(20 * loss for loss in losses), tuple(20 * loss for loss in after)
    assert isinstance(check(*grown, loss_call=call), Finding)
    fresh = (2.0, *grown[0][1:]), (9.0, *grown[1][1:])
    assert isinstance(check(*fresh, loss_call=call, epsilon=1e-8), Finding)
