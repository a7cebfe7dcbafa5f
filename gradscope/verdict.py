"""Trials -> Verdict: whether a repair counts as one, and why."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from gradscope import registry
from gradscope.bias import bias
from gradscope.checked import checked_step
from gradscope.comparison import Comparison, compare
from gradscope.config import Settings
from gradscope.invariants import check_invariants
from gradscope.metric import evaluate, higher_is_better
from gradscope.patch import apply
from gradscope.randomness import preserved_randomness
from gradscope.records import (
    DO_NOTHING,
    Bias,
    Findings,
    Invariant,
    Plan,
    Status,
    Trial,
    Verdict,
)
from gradscope.remaining import profile_again, remaining
from gradscope.subject import Subject
from gradscope.trial import Arm, Running

__all__ = ["REPROFILED_SEEDS", "judge"]

REPROFILED_SEEDS = 5
"""On so many of the repaired and trained models the findings are looked for again."""

# A run that ends so many times its first value worse than that has diverged, whatever number it is.
_DIVERGED = 10.0

# A repair is ruinous when at least this share of its runs fail, and of all runs so many more than
# without it.
_RUINED, _MORE = 0.5, 0.25


def judge(
    subject: Subject,
    findings: Findings,
    metric: str,
    trials: tuple[Trial, ...],
    *,
    winner: Arm,
    rate: Arm,
    repaired: Sequence[Running],
    seed: int,
    settings: Settings | None = None,
) -> Verdict:
    """Compares the matched trials and says what they show.

    Args:
        subject: what was trained.
        findings: what the repair was meant to remove.
        metric: name of what the trials measured.
        trials: all of them; those that are matched are compared.
        winner: the repair.
        rate: doing nothing with the best other learning rate.
        repaired: the winner's first matched runs.
        seed: the first seed.
        settings: those that the findings were made under.
    """
    sign = 1.0 if higher_is_better(subject, metric) else -1.0
    matched = [trial for trial in trials if trial.matched]
    seeds = tuple(dict.fromkeys(trial.seed for trial in matched))
    starts = [_start(subject, each) for each in seeds]
    seen = [*starts, *(trial.metric for trial in matched)]
    worst = sign * min((sign * value for value in seen if math.isfinite(value)), default=0.0)
    starts = [start if math.isfinite(start) else worst for start in starts]
    values = {
        arm: _values([trial for trial in matched if trial.arm == arm], starts, sign)
        for arm in dict.fromkeys(trial.arm for trial in matched)
    }
    # Not the metrics: those of stuck runs may well be equal. Not one arm's alone: if all its runs
    # diverge at once, their curves are equal.
    curves = {tuple(trial.curve for trial in matched if trial.seed == each) for each in seeds}
    comparison = compare(values[DO_NOTHING], values[winner.name])
    against_rate = compare(values[rate.name], values[winner.name])
    profiles = [profile_again(subject, run, findings.profile.steps, seed) for run in repaired]
    found = remaining(findings, profiles, settings)
    invariants = _invariants(subject, winner.plan, seed)
    failed_before = _failed(values[DO_NOTHING], starts, sign)
    failed_after = _failed(values[winner.name], starts, sign)
    broken = [invariant.name for invariant in invariants if not invariant.held]
    if len(curves) < len(seeds):
        status = Status.UNVERIFIED
        reason = (
            f"Only {len(curves)} of {len(seeds)} seeds give a run of their own, so there is "
            "nothing to compare: let weights or the order of batches depend on torch's random "
            "state, for instance with shuffle=True."
        )
    elif broken:
        status, reason = Status.WORSE_UNDONE, f"It was undone: {broken[0]} does not hold."
    elif failed_after >= max(_RUINED, failed_before + _MORE):
        # One run that ends at 1e30 hides nine others from a t-test.
        status = Status.WORSE_UNDONE
        reason = (
            f"{failed_after:.0%} of the repaired runs fail, of those left alone "
            f"{failed_before:.0%}; it was undone."
        )
    else:
        # What changes nothing but the learning rate is no rival of one.
        rivals = any(
            registry.remedy(entry.remedy).rivals_rates for entry in winner.plan.prescriptions
        )
        status, reason = _status(comparison, against_rate if rivals else None, rate, sign, found)
    return Verdict(
        status=status,
        reason=reason,
        metric=metric,
        higher_is_better=sign > 0,
        before=comparison.before,
        after=comparison.after,
        interval=comparison.interval,
        p_value=comparison.p_value,
        effect_size=comparison.effect_size,
        seeds=seeds,
        baselines={
            arm: statistics.fmean(numbers)
            for arm, numbers in values.items()
            if arm not in (DO_NOTHING, winner.name)
        },
        invariants=invariants,
        bias=_bias(subject, winner.plan, seed),
        trials=trials,
        failed_before=failed_before,
        failed_after=failed_after,
        remaining=found,
        profile=profiles[0],
    )


def _status(
    comparison: Comparison,
    against_rate: Comparison | None,
    rate: Arm,
    sign: float,
    found: tuple[str, ...],
) -> tuple[Status, str]:
    if not comparison.significant:
        return (
            Status.NO_EFFECT,
            f"On matched seeds it does not differ from doing nothing "
            f"(p = {comparison.p_value:.2g}); it was undone.",
        )
    if comparison.difference * sign < 0:
        return Status.WORSE_UNDONE, "It does worse than doing nothing; it was undone."
    if against_rate is not None and not (
        against_rate.significant and against_rate.difference * sign > 0
    ):
        return (
            Status.IMPROVED,
            f"It beats doing nothing, but not {rate.name.removeprefix(DO_NOTHING + ', ')} "
            f"alone (p = {against_rate.p_value:.2g}).",
        )
    if found:
        return (
            Status.IMPROVED,
            f"It learns better, but {', '.join(found)} is found after the repair.",
        )
    if against_rate is None:
        return Status.FIXED, "The findings are gone, and it learns better than doing nothing."
    return (
        Status.FIXED,
        "The findings are gone, and it learns better than doing nothing, also with the best of "
        "the other learning rates.",
    )


def _values(trials: Sequence[Trial], starts: Sequence[float], sign: float) -> list[float]:
    """The metrics; a diverged run is taken to have ended where it started.

    One run at 1e30 would hide what all others show from a t-test.
    """

    def diverged(metric: float, start: float) -> bool:
        return not math.isfinite(metric) or 0 < _DIVERGED * abs(start) < sign * (start - metric)

    return [
        start if diverged(trial.metric, start) else trial.metric
        for trial, start in zip(trials, starts, strict=True)
    ]


def _start(subject: Subject, seed: int) -> float:
    """The metric before training."""
    with preserved_randomness(seed):
        model = subject.build_model()
    return evaluate(subject, model)[1]


def _failed(values: Sequence[float], starts: Sequence[float], sign: float) -> float:
    """Share of runs that ended no better than they started."""
    stuck = [not sign * value > sign * start for value, start in zip(values, starts, strict=True)]
    return sum(stuck) / len(stuck)


def _invariants(subject: Subject, plan: Plan, seed: int) -> tuple[Invariant, ...]:
    with preserved_randomness(seed):
        model = subject.build_model()
        batch = next(iter(subject.data()))
        return check_invariants(model, plan, checked_step(subject.step), batch)


def _bias(subject: Subject, plan: Plan, seed: int) -> Bias | None:
    """What the artificial derivatives of the plan do to the gradient; None where it has none."""
    with preserved_randomness(seed):
        model = subject.build_model()
        batches = subject.data()
    with apply(model, replace(plan, seed=seed)) as patch:
        if not patch.settings:
            return None
        return bias(model, batches, None, patch, step=checked_step(subject.step), seed=seed)
