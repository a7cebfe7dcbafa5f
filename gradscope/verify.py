"""Plan -> Verdict: trains with the plan and against doing nothing, and compares.

Candidates are narrowed down on selection seeds. The best one is then compared
with doing nothing on fresh matched seeds, with other learning rates and a random remedy beside it,
so that no seed that chose the winner also judges it.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from gradscope.config import Settings
from gradscope.errors import GradscopeError, UsageError
from gradscope.metric import evaluate, higher_is_better
from gradscope.randomness import preserved_randomness
from gradscope.records import (
    DO_NOTHING,
    Findings,
    Plan,
    Prescription,
    Refusal,
    Status,
    Trial,
    Verdict,
)
from gradscope.selection import SELECTION_SEEDS, select
from gradscope.subject import Subject
from gradscope.threads import fastest_threads
from gradscope.trial import Arm, Running, arm_name, other_rate, same_batches, trial_of
from gradscope.verdict import REPROFILED_SEEDS, judge

__all__ = ["DEFAULT_BUDGET", "FEWEST_SEEDS", "Progress", "Verified", "check_options", "verify"]

DEFAULT_BUDGET = 120.0
"""Seconds of trials. Enough for 20 matched seeds of 1,000 steps of a small model on two cores."""

FEWEST_SEEDS = 5
"""Fewer pairs say next to nothing about how much runs differ."""

_MOST_SEEDS = 20
# Steps that a trial should have at least, before further seeds are added: a repair shows in how
# training goes on, not in its first steps.
_USEFUL_STEPS = 1000
_MOST_STEPS = 3000
_FEWEST_STEPS = 20
_TIMED_STEPS = 40
_TIMED_BLOCK = 5
_TIMED_SHARE = 0.02
# Selection may take this share of the budget; candidates that do not fit in are not tried.
_SELECTION_SHARE = 0.4
# Of all steps of all arms, halving takes 1/4 in its first stage, 1/8 and 1/8 in the others. Doing
# nothing and two arms with another learning rate come on top, and four arms are matched.
_HALVING, _ON_TOP, _MATCHED = 0.5, 3, 4
_LEARNING_RATES = (3.0, 0.3, 10.0)

Progress = Callable[[str, float], None]
"""Is told what is going on and which share of it is done, from 0 to 1."""


@dataclass(frozen=True)
class Verified:
    """What verification leaves: the verdict, the plan it stands for, and a repaired model.

    ``plan`` prescribes nothing where nothing helped. ``model`` is the patched model after its
    first matched trial, None where nothing helped.
    """

    verdict: Verdict
    plan: Plan
    model: nn.Module | None


def verify(
    subject: Subject,
    plan: Plan,
    findings: Findings,
    *,
    budget: float = DEFAULT_BUDGET,
    seeds: int | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
    may_add_rate: bool = False,
) -> Verified:
    """Tries a plan and its alternatives against doing nothing.

    Args:
        subject: with data; its model is built anew for each trial.
        plan: what to try; its alternatives are tried too.
        findings: what the repair is meant to remove.
        budget: seconds that the trials may take, roughly.
        seeds: matched seeds; by default as many as the budget allows, from 5 to 20.
        seed: the first seed; selection and comparison use others than this one.
        settings: those that the findings were made under.
        progress: is told how far it is.
        may_add_rate: whether another learning rate may become part of the plan, or take its place.

    Returns:
        The verdict, the winning plan, and the repaired model.

    Raises:
        UsageError: ``seeds`` is less than 5 or ``budget`` is not positive.
        ModelError: the model, the data or the loss failed.
    """
    check_options(budget, seeds)
    if subject.build_data is None or subject.synthetic:
        reason = "There is no data to train on, so nothing was tried; give --data to verify."
        return Verified(Verdict(Status.UNVERIFIED, reason), plan, None)
    if not same_batches(subject, seed):
        reason = (
            "Two runs of the same seed are given different batches, so nothing can be compared; "
            "draw what is random in the data from torch's, NumPy's or Python's global generator."
        )
        return Verified(Verdict(Status.UNVERIFIED, reason), plan, None)
    verification = _Verification(subject, plan, findings, budget, seeds, seed, settings, progress)
    return verification.run(may_add_rate)


def check_options(budget: float, seeds: int | None) -> None:
    """Refuses what no verification can be run with.

    Raises:
        UsageError: ``seeds`` is less than 5, or ``budget`` is not positive and finite.
    """
    if seeds is not None and seeds < FEWEST_SEEDS:
        raise UsageError(
            f"--seeds is {seeds}; at least {FEWEST_SEEDS} matched seeds are needed to compare."
        )
    if not 0 < budget < math.inf:
        raise UsageError(f"--budget is {budget} seconds; it must be positive and finite.")


class _Verification:
    """One verification: the trials it has run so far, and the budget they share."""

    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        findings: Findings,
        budget: float,
        seeds: int | None,
        seed: int,
        settings: Settings | None,
        progress: Progress | None,
    ) -> None:
        self._subject, self._plan, self._findings = subject, plan, findings
        self._settings = settings
        self._budget, self._seeds, self._seed = budget, seeds, seed
        self._progress = progress or (lambda what, share: None)
        self._started = time.monotonic()
        self._trials: list[Trial] = []
        self._refusals: list[Refusal] = []
        with preserved_randomness(seed):
            model = subject.build_model()
        start = time.monotonic()
        self._metric, self._start = evaluate(subject, model)
        self._evaluation = time.monotonic() - start
        self._sign = 1.0 if higher_is_better(subject, self._metric) else -1.0

    def run(self, may_add_rate: bool) -> Verified:
        choices = (self._plan.prescriptions, *self._plan.alternatives)
        names = _names(choices)
        candidates = [
            Arm(name, replace(self._plan, prescriptions=prescriptions))
            for name, prescriptions in zip(names, choices, strict=True)
        ]
        rates = [other_rate(factor) for factor in _LEARNING_RATES]
        with fastest_threads(self._seconds_per_step) as seconds:
            candidates, rates = self._affordable_arms(candidates, rates, seconds)
            steps = self._affordable_steps(len(candidates) + len(rates), seconds)
            selected = select(
                self._subject,
                self._findings,
                candidates,
                rates,
                steps,
                seed=self._seed,
                start=self._start,
                sign=self._sign,
                may_add_rate=may_add_rate,
                settings=self._settings,
                progress=self._progress,
            )
            self._trials += selected.trials
            for arm, reason in selected.refused:
                self._refusals += _refused([arm], reason)
            winner, others = selected.winner, selected.others
            if winner is None:
                return self._nothing_ran(choices)
            arms = [Arm(DO_NOTHING), winner, selected.rate]
            if others:
                arms.append(random.Random(self._seed).choice(others))
            repaired = self._match(arms, winner, steps)
        verdict = judge(
            self._subject,
            self._findings,
            self._metric,
            tuple(self._trials),
            winner=winner,
            rate=selected.rate,
            repaired=repaired,
            seed=self._seed,
            settings=self._settings,
        )
        helped = verdict.status in (Status.FIXED, Status.IMPROVED)
        plan = replace(
            self._plan,
            prescriptions=winner.plan.prescriptions if helped else (),
            alternatives=tuple(
                prescriptions
                for prescriptions in choices
                if not helped or prescriptions != winner.plan.prescriptions
            ),
            # Of the model that is handed back: the plan makes the same one again.
            seed=repaired[0].seed if helped else self._plan.seed,
            refusals=(*self._plan.refusals, *self._refusals),
        )
        return Verified(verdict, plan, repaired[0].model if helped else None)

    def _seconds_per_step(self) -> float:
        running = Running(self._subject, Arm(DO_NOTHING), self._seed)
        taken: list[float] = []
        started = time.monotonic()
        while running.steps < _TIMED_STEPS and not running.diverged:
            # One step by itself first: it may take as long as all that is planned for the others.
            steps = _TIMED_BLOCK if taken else 1
            start = time.monotonic()
            running.advance(running.steps + steps)
            taken.append((time.monotonic() - start) / steps)
            if len(taken) > 1 and time.monotonic() - started > _TIMED_SHARE * self._budget:
                break
        # The median: the first steps warm up, and a busy machine delays some.
        return statistics.median(taken)

    def _affordable_arms(
        self, candidates: list[Arm], rates: list[Arm], seconds: float
    ) -> tuple[list[Arm], list[Arm]]:
        """As many arms as can be tried for the fewest steps; the rest is refused."""
        one = SELECTION_SEEDS * (_FEWEST_STEPS * seconds + 3 * self._evaluation)
        fitting = int(_SELECTION_SHARE * self._budget / max(one, 1e-9))
        kept_rates = rates[: max(1, fitting // 2)]
        kept = candidates[: max(1, fitting - len(kept_rates))]
        self._refusals += _refused(candidates[len(kept) :], "the budget is too small to try it too")
        return kept, kept_rates

    def _affordable_steps(self, arms: int, seconds: float) -> int:
        """Steps of a full trial, given what one takes with nothing changed."""
        # Remedies add work to a step; how much is not known yet.
        seconds *= 1.3
        selection = SELECTION_SEEDS * (_HALVING * arms + _ON_TOP)

        def affordable(seeds: int) -> int:
            evaluations = self._evaluation * (3 * SELECTION_SEEDS * arms + 5 * seeds)
            training = max(0.0, 0.9 * self._budget - evaluations)
            return int(training / seconds / (selection + _MATCHED * seeds))

        if self._seeds is not None:
            steps = affordable(self._seeds)
        else:
            steps = max(affordable(_MOST_SEEDS), min(_USEFUL_STEPS, affordable(FEWEST_SEEDS)))
        return _rounded(min(_MOST_STEPS, max(_FEWEST_STEPS, steps)))

    def _nothing_ran(self, choices: tuple[tuple[Prescription, ...], ...]) -> Verified:
        return Verified(
            Verdict(Status.NO_EFFECT, "No remedy could be applied and run; see the refusals."),
            replace(
                self._plan,
                prescriptions=(),
                alternatives=choices,
                refusals=(*self._plan.refusals, *self._refusals),
            ),
            None,
        )

    def _match(self, arms: Sequence[Arm], winner: Arm, steps: int) -> list[Running]:
        """Trains every arm on the same fresh seeds; returns the first of the winner's runs."""
        repaired: list[Running] = []
        first = self._seed + 1 + SELECTION_SEEDS
        wanted = self._seeds or _MOST_SEEDS
        start = time.monotonic()
        for index in range(wanted):
            if self._seeds is None and index >= FEWEST_SEEDS:
                # How long a seed takes is known by now. Whether another fits is decided by the
                # clock alone, never by the results.
                taken = (time.monotonic() - start) / index
                if time.monotonic() - self._started + taken > self._budget:
                    break
            for number, arm in enumerate(arms):
                run = Running(self._subject, arm, first + index, steps)
                try:
                    run.advance(steps)
                except GradscopeError:
                    if arm.name == DO_NOTHING:
                        raise
                    run.diverged = True
                self._trials.append(trial_of(run, matched=True))
                if arm is winner and index < REPROFILED_SEEDS:
                    repaired.append(run)
                share = (index + (number + 1) / len(arms)) / wanted
                self._progress(f"matched seed {index + 1}: {arm.name}", share)
        return repaired


def _refused(arms: Sequence[Arm], reason: str) -> list[Refusal]:
    return [
        Refusal(
            " + ".join(entry.remedy for entry in arm.plan.prescriptions),
            reason,
            arm.plan.prescriptions[0].sites,
        )
        for arm in arms
    ]


def _names(choices: Sequence[Sequence[Prescription]]) -> list[str]:
    """Short names: remedies with their parameters, with what tells them apart where it takes more.

    The same remedy at other sites is told by how many they are, and by a number if that is equal.
    """
    names = [arm_name(prescriptions) for prescriptions in choices]
    at = [sum(len(entry.sites) for entry in prescriptions) for prescriptions in choices]
    names = [
        f"{name} at {sites} sites" if names.count(name) > 1 else name
        for name, sites in zip(names, at, strict=True)
    ]
    return [
        f"{name} #{names[:index].count(name) + 1}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _rounded(steps: int) -> int:
    """To two significant digits: machines of nearly the same speed then run the same trials."""
    digits = max(0, len(str(steps)) - 2)
    unit = int(10**digits)
    return steps // unit * unit
