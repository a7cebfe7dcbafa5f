"""Plan -> Verdict: trains with the plan and against doing nothing, and compares.

Candidates are narrowed down by successive halving on selection seeds. The best one is then compared
with doing nothing on fresh matched seeds, with other learning rates and a random remedy beside it,
so that no seed that chose the winner also judges it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from gradscope.checked import checked_step
from gradscope.comparison import Comparison, compare
from gradscope.diagnose import diagnose
from gradscope.errors import UsageError
from gradscope.invariants import check_invariants
from gradscope.profile import DEFAULT_STEPS, profile_steps
from gradscope.randomness import preserved_randomness
from gradscope.records import (
    Findings,
    Invariant,
    Plan,
    Prescription,
    Profile,
    Status,
    Trial,
    Verdict,
)
from gradscope.subject import Subject
from gradscope.trial import Arm, Running, evaluate, higher_is_better, training_of

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
_SELECTION_SEEDS = 2
_TIMED_STEPS = 40
_LEARNING_RATES = (0.3, 3.0, 10.0)
_REPROFILED_SEEDS = 5
# All threads are used where they make a step faster by this factor.
_WORTH_THREADS = 1.25
# A repair is ruinous when at least this share of its runs fail, and more than without it.
_RUINED = 0.5

DO_NOTHING = "do-nothing"

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
    progress: Progress | None = None,
) -> Verified:
    """Tries a plan and its alternatives against doing nothing.

    Args:
        subject: with data; its model is built anew for each trial.
        plan: what to try; its alternatives are tried too.
        findings: what the repair is meant to remove.
        budget: seconds that the trials may take, roughly.
        seeds: matched seeds; by default as many as the budget allows, from 5 to 20.
        seed: the first seed; selection and comparison use others than this one.
        progress: is told how far it is.

    Returns:
        The verdict, the winning plan, and the repaired model.

    Raises:
        UsageError: ``seeds`` is less than 5 or ``budget`` is not positive.
        ModelError: the model, the data or the loss failed.
    """
    check_options(budget, seeds)
    if subject.build_data is None or subject.synthetic:
        return Verified(
            Verdict(
                Status.UNVERIFIED,
                "There is no data to train on, so nothing was tried; give --data to verify.",
            ),
            plan,
            None,
        )
    return _Verification(subject, plan, findings, budget, seeds, seed, progress).run()


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
        progress: Progress | None,
    ) -> None:
        self._subject, self._plan, self._findings = subject, plan, findings
        self._budget, self._seeds, self._seed = budget, seeds, seed
        self._progress = progress or (lambda what, share: None)
        self._started = time.monotonic()
        self._trials: list[Trial] = []
        with preserved_randomness(seed):
            model = subject.build_model()
        start = time.monotonic()
        self._metric, _ = evaluate(subject, model)
        self._evaluation = time.monotonic() - start
        self._sign = 1.0 if higher_is_better(self._metric) else -1.0

    def run(self) -> Verified:
        choices = (self._plan.prescriptions, *self._plan.alternatives)
        names = _distinct([_name(prescriptions) for prescriptions in choices])
        candidates = [
            Arm(name, replace(self._plan, prescriptions=prescriptions))
            for name, prescriptions in zip(names, choices, strict=True)
        ]
        rates = [
            Arm(f"{DO_NOTHING}, learning rate x{factor:g}", learning_rate_factor=factor)
            for factor in _LEARNING_RATES
        ]
        with _fastest_threads(self._seconds_per_step) as seconds:
            steps = self._affordable_steps(len(candidates) + len(rates), seconds)
            winner, rate = self._select(candidates, rates, steps)
            others = [arm for arm in candidates if arm is not winner]
            arms = [Arm(DO_NOTHING), winner, rate]
            if others:
                arms.append(others[self._seed % len(others)])
            runs = self._match(arms, steps)
        return self._judge(winner, rate, runs)

    def _seconds_per_step(self) -> float:
        running = Running(self._subject, Arm(DO_NOTHING), self._seed)
        taken = []
        for step in range(1, _TIMED_STEPS + 1):
            start = time.monotonic()
            running.advance(step)
            taken.append(time.monotonic() - start)
        # The median: the first steps warm up, and a busy machine delays some.
        return statistics.median(taken)

    def _affordable_steps(self, arms: int, seconds: float) -> int:
        """Steps of a full trial, given what one takes with nothing changed."""
        # Remedies add work to a step; how much is not known yet.
        seconds *= 1.3
        selection = _SELECTION_SEEDS * (0.375 * arms + 1)

        def affordable(seeds: int) -> int:
            evaluations = self._evaluation * (3 * _SELECTION_SEEDS * arms + 5 * seeds)
            training = max(0.0, 0.9 * self._budget - evaluations)
            return int(training / seconds / (selection + 4 * seeds))

        if self._seeds is not None:
            steps = affordable(self._seeds)
        else:
            steps = max(affordable(_MOST_SEEDS), min(_USEFUL_STEPS, affordable(FEWEST_SEEDS)))
        return _rounded(min(_MOST_STEPS, max(_FEWEST_STEPS, steps)))

    def _select(
        self, candidates: Sequence[Arm], rates: Sequence[Arm], steps: int
    ) -> tuple[Arm, Arm]:
        """The best candidate and the best learning rate, by successive halving."""
        seeds = [self._seed + 1 + index for index in range(_SELECTION_SEEDS)]
        running = {
            arm: [Running(self._subject, arm, seed) for seed in seeds]
            for arm in (*candidates, *rates)
        }
        scores: dict[Arm, float] = {}
        total, done = len(running) * 3, 0
        for quarter in (1, 2, 4):
            for arm, runs in running.items():
                for run in runs:
                    run.advance(max(1, steps * quarter // 4))
                trials = [run.trial(matched=False) for run in runs]
                scores[arm] = statistics.fmean(self._score(trial) for trial in trials)
                if quarter == 4:
                    self._trials += trials
                done += 1
                self._progress(f"trying {arm.name}", done / total)
            if quarter < 4:
                kept = _best_half([arm for arm in candidates if arm in running], scores)
                kept += _best_half([arm for arm in rates if arm in running], scores)
                for arm in [arm for arm in running if arm not in kept]:
                    self._trials += [run.trial(matched=False) for run in running.pop(arm)]
        return (
            max((arm for arm in candidates if arm in running), key=scores.__getitem__),
            max((arm for arm in rates if arm in running), key=scores.__getitem__),
        )

    def _match(self, arms: Sequence[Arm], steps: int) -> dict[str, list[Running]]:
        """Trains every arm on the same fresh seeds."""
        runs: dict[str, list[Running]] = {arm.name: [] for arm in arms}
        first = self._seed + 1 + _SELECTION_SEEDS
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
                run = Running(self._subject, arm, first + index)
                run.advance(steps)
                runs[arm.name].append(run)
                self._trials.append(run.trial(matched=True))
                share = (index + (number + 1) / len(arms)) / wanted
                self._progress(f"matched seed {index + 1}: {arm.name}", share)
        return runs

    def _judge(self, winner: Arm, rate: Arm, runs: dict[str, list[Running]]) -> Verified:
        trials = [trial for trial in self._trials if trial.matched]
        seeds = tuple(dict.fromkeys(trial.seed for trial in trials))
        starts = [self._start(seed) for seed in seeds]
        values = {
            name: [
                trial.metric if math.isfinite(trial.metric) else start
                for trial, start in zip(
                    (trial for trial in trials if trial.arm == name), starts, strict=True
                )
            ]
            for name in runs
        }
        comparison = compare(values[DO_NOTHING], values[winner.name])
        against_rate = compare(values[rate.name], values[winner.name])
        profiles = [self._reprofile(run) for run in runs[winner.name][:_REPROFILED_SEEDS]]
        remaining = self._remaining(profiles)
        invariants = self._invariants(winner.plan)
        failed_before = self._failed(values[DO_NOTHING], starts)
        failed_after = self._failed(values[winner.name], starts)
        status, reason = self._status(
            comparison, against_rate, rate, remaining, invariants, failed_before, failed_after
        )
        helped = status in (Status.FIXED, Status.IMPROVED)
        verdict = Verdict(
            status=status,
            reason=reason,
            metric=self._metric,
            higher_is_better=self._sign > 0,
            before=comparison.before,
            after=comparison.after,
            interval=comparison.interval,
            p_value=comparison.p_value,
            effect_size=comparison.effect_size,
            seeds=seeds,
            baselines={
                name: statistics.fmean(numbers)
                for name, numbers in values.items()
                if name not in (DO_NOTHING, winner.name)
            },
            invariants=invariants,
            trials=tuple(self._trials),
            failed_before=failed_before,
            failed_after=failed_after,
            remaining=remaining,
            profile=profiles[0],
        )
        plan = replace(
            self._plan,
            prescriptions=winner.plan.prescriptions if helped else (),
            alternatives=tuple(
                prescriptions
                for prescriptions in (self._plan.prescriptions, *self._plan.alternatives)
                if not helped or prescriptions != winner.plan.prescriptions
            ),
        )
        return Verified(verdict, plan, runs[winner.name][0].model if helped else None)

    def _status(
        self,
        comparison: Comparison,
        against_rate: Comparison,
        rate: Arm,
        remaining: tuple[str, ...],
        invariants: tuple[Invariant, ...],
        failed_before: float,
        failed_after: float,
    ) -> tuple[Status, str]:
        broken = [invariant.name for invariant in invariants if not invariant.held]
        better = comparison.difference * self._sign > 0
        if broken:
            return Status.WORSE_UNDONE, f"It was undone: {broken[0]} does not hold."
        if failed_after >= _RUINED and failed_after > failed_before:
            # One run that ends at 1e30 hides nine others from a t-test.
            return (
                Status.WORSE_UNDONE,
                f"{failed_after:.0%} of the repaired runs fail, of those left alone "
                f"{failed_before:.0%}; it was undone.",
            )
        if not comparison.significant:
            return (
                Status.NO_EFFECT,
                f"On matched seeds it does not differ from doing nothing "
                f"(p = {comparison.p_value:.2g}); it was undone.",
            )
        if not better:
            return Status.WORSE_UNDONE, "It does worse than doing nothing; it was undone."
        if not (against_rate.significant and against_rate.difference * self._sign > 0):
            return (
                Status.IMPROVED,
                f"It beats doing nothing, but not {rate.name.removeprefix(DO_NOTHING + ', ')} "
                f"alone (p = {against_rate.p_value:.2g}).",
            )
        if remaining:
            return (
                Status.IMPROVED,
                f"It learns better, but {', '.join(remaining)} is still found after the repair.",
            )
        return (
            Status.FIXED,
            "The findings are gone, and it learns better than doing nothing, also at any other "
            "learning rate tried.",
        )

    def _reprofile(self, run: Running) -> Profile:
        training = run.patch.training(training_of(self._subject))
        with preserved_randomness(self._seed):
            batches = self._subject.data()
        return profile_steps(
            run.model,
            batches,
            self._subject.step,
            build_optimizer=training.build_optimizer,
            steps=self._findings.profile.steps or DEFAULT_STEPS,
            seed=self._seed,
        )

    def _remaining(self, profiles: Sequence[Profile]) -> tuple[str, ...]:
        """Codes of the original findings that show in at least half of the repaired models."""
        codes = sorted(self._findings.codes)
        after = [diagnose(profile, select=codes).codes for profile in profiles]
        return tuple(
            code for code in codes if sum(code in found for found in after) * 2 >= len(after)
        )

    def _invariants(self, plan: Plan) -> tuple[Invariant, ...]:
        with preserved_randomness(self._seed):
            model = self._subject.build_model()
            batch = next(iter(self._subject.data()))
            return check_invariants(model, plan, checked_step(self._subject.step), batch)

    def _start(self, seed: int) -> float:
        """The metric before training, which a diverged run is taken to have ended with."""
        with preserved_randomness(seed):
            model = self._subject.build_model()
        return evaluate(self._subject, model)[1]

    def _failed(self, values: Sequence[float], starts: Sequence[float]) -> float:
        """Share of runs that ended no better than they started."""
        stuck = [
            not self._sign * value > self._sign * start
            for value, start in zip(values, starts, strict=True)
        ]
        return sum(stuck) / len(stuck)

    def _score(self, trial: Trial) -> float:
        return self._sign * trial.metric if math.isfinite(trial.metric) else -math.inf


@contextmanager
def _fastest_threads(seconds_per_step: Callable[[], float]) -> Iterator[float]:
    """Sets how many threads torch uses on the CPU by trying; yields the seconds of a step.

    Small models run as fast on one thread, and much faster where other processes want the cores
    too: threads that wait for each other then wait for the scheduler.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = seconds_per_step()
        torch.set_num_threads(threads)
        many = seconds_per_step() if threads > 1 else one
        if many * _WORTH_THREADS > one:
            torch.set_num_threads(1)
        yield min(one, many)
    finally:
        torch.set_num_threads(threads)


def _best_half(arms: Sequence[Arm], scores: dict[Arm, float]) -> list[Arm]:
    # sorted() is stable: among equals the better guess stays.
    ranked = sorted(arms, key=scores.__getitem__, reverse=True)
    return ranked[: max(1, (len(arms) + 1) // 2)]


def _name(prescriptions: Sequence[Prescription]) -> str:
    """A short name: the remedies with the parameters that tell them from their alternatives."""
    return " + ".join(
        entry.remedy
        + (
            f" ({', '.join(str(value) for value in entry.parameters.values())})"
            * bool(entry.parameters)
        )
        for entry in prescriptions
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Numbers names that stand more than once: the same remedy at other sites."""
    return [
        f"{name} #{names[:index].count(name) + 1}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _rounded(steps: int) -> int:
    """To two significant digits: machines of nearly the same speed then run the same trials."""
    digits = max(0, len(str(steps)) - 2)
    unit = int(10**digits)
    return steps // unit * unit
