"""Candidates -> the one worth proving, by trials on seeds that prove nothing.

Candidates and other learning rates are trained longer and longer, the better half of each going on
(successive halving). Of those that come close to the best, one is taken that leaves nothing to be
found. Where another learning rate alone does nearly as well, or something is left to be found, the
best is also tried with that rate.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from gradscope import registry
from gradscope.config import Settings
from gradscope.errors import GradscopeError
from gradscope.records import DO_NOTHING, Findings, Trial
from gradscope.remaining import profile_again, remaining
from gradscope.subject import Subject
from gradscope.trial import Arm, Running, arm_name

__all__ = ["SELECTION_SEEDS", "Selected", "select"]

SELECTION_SEEDS = 2

# Who has this share of the best one's gain is close to it. A candidate that is, and leaves nothing
# to be found, is preferred; a learning rate that is may have to be a part of the repair.
_CLOSE = 0.5
# With this share, another learning rate alone is as good, and the simpler repair.
_AS_GOOD = 0.75


@dataclass(frozen=True)
class Selected:
    """What the selection leaves.

    Attributes:
        winner: the candidate to prove; None where none could be run.
        rate: the best other learning rate, which the winner is not.
        others: the other candidates that could be run.
        refused: those that could not, and why.
        trials: all that were run.
    """

    winner: Arm | None
    rate: Arm
    others: tuple[Arm, ...]
    refused: tuple[tuple[Arm, str], ...]
    trials: tuple[Trial, ...]


def select(
    subject: Subject,
    findings: Findings,
    candidates: Sequence[Arm],
    rates: Sequence[Arm],
    steps: int,
    *,
    seed: int,
    start: float,
    sign: float,
    may_add_rate: bool = False,
    settings: Settings | None = None,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Selected:
    """Tries candidates and other learning rates, and picks the candidate to prove.

    Args:
        subject: what is trained.
        findings: what a candidate should remove.
        candidates, rates: what is tried; one of each at least.
        steps: of a full trial.
        seed: of profiles; the ones after it are those of the trials.
        start: the metric before training; what ends below it, doing nothing too, gains nothing.
        sign: 1 where a larger metric is better, else -1.
        may_add_rate: whether another learning rate may become part of the winner, or be it.
        settings: those that the findings were made under.
        progress: is told what is tried and which share of it is done.
    """
    seeds = [seed + 1 + index for index in range(SELECTION_SEEDS)]
    trials = _Trials(subject, findings, settings, seed, seeds, steps, sign)
    left, left_rates = list(candidates), list(rates)
    total, done = 3 * (len(left) + len(left_rates)), 0
    for quarter in (1, 2, 4):
        for arm in (*left, *left_rates):
            progress(f"trying {arm.name}", done / total)
            trials.train(arm, max(1, steps * quarter // 4))
            done += 1
        left = [arm for arm in left if arm not in trials.failed]
        if quarter < 4:
            left, left_rates = trials.best_half(left), trials.best_half(left_rates)
    rate = max(left_rates, key=trials.score)
    winner = None
    if left:
        nothing = Arm(DO_NOTHING)
        progress(f"trying {nothing.name}", 1.0)
        trials.train(nothing, steps)
        nought = max(trials.score(nothing), sign * start if math.isfinite(start) else -math.inf)
        winner = _best(left, trials.score, max(nought, trials.score(rate)), trials.clean)
        if may_add_rate:
            progress(f"trying {winner.name} with other learning rates", 1.0)
            winner = _completed(trials, winner, left, rate, nought)
    taken = "" if winner is None else arm_name(winner.plan.prescriptions)
    return Selected(
        winner,
        next((arm for arm in (rate, *rates) if arm_name(arm.plan.prescriptions) != taken), rate),
        tuple(arm for arm in candidates if arm is not winner and arm not in trials.failed),
        tuple((arm, trials.failed[arm]) for arm in candidates if arm in trials.failed),
        tuple(trial for arm in trials.latest for trial in trials.latest[arm]),
    )


def _completed(trials: _Trials, winner: Arm, left: Sequence[Arm], rate: Arm, nought: float) -> Arm:
    """The winner, by itself or with another learning rate, or that rate alone."""
    score = trials.score
    if trials.clean(winner) and not _close(score(rate), score(winner), nought):
        return winner
    by_score = sorted(left, key=score, reverse=True)
    extra = _with_rate(next(filter(trials.clean, by_score), winner), rate)
    for arm in extra:
        trials.train(arm, trials.steps)
    # The rate alone is no answer to what was found, unless it makes that go.
    alone = [arm for arm in extra[1:] if trials.clean(arm)]
    best = _best([*left, *extra[:1], *alone], score, max(nought, score(rate)), trials.clean)
    return next((arm for arm in alone if _close(score(arm), score(best), nought, _AS_GOOD)), best)


def _with_rate(best: Arm, rate: Arm) -> list[Arm]:
    """The best candidate with the best other learning rate besides, and that rate alone."""
    acts = best.plan.prescriptions
    if not acts or not all(registry.remedy(each.remedy).rivals_rates for each in acts):
        return []
    [factor] = (replace(each, finding=acts[0].finding) for each in rate.plan.prescriptions)
    return [
        Arm(arm_name(choice), replace(best.plan, prescriptions=choice))
        for choice in ((*acts, factor), (factor,))
    ]


def _close(score: float, best: float, nothing: float, share: float = _CLOSE) -> bool:
    """Whether a score has this share of what the best has over doing nothing."""
    return score > nothing and not score - nothing < share * (best - nothing)


def _best(
    arms: Sequence[Arm],
    score: Callable[[Arm], float],
    control: float,
    clean: Callable[[Arm], bool],
) -> Arm:
    """The best by its score; before it, one that comes close to it and is clean."""
    ranked = sorted(arms, key=score, reverse=True)
    for arm in ranked:
        if _close(score(arm), score(ranked[0]), control) and clean(arm):
            return arm
    return ranked[0]


@dataclass
class _Trials:
    """Runs of arms on the same seeds.

    Attributes:
        runs, latest: by arm; the trainings, and their records as of the last stage.
        failed: why, by arm.
    """

    subject: Subject
    findings: Findings
    settings: Settings | None
    seed: int
    seeds: list[int]
    steps: int
    sign: float
    runs: dict[Arm, list[Running]] = field(default_factory=dict)
    latest: dict[Arm, list[Trial]] = field(default_factory=dict)
    failed: dict[Arm, str] = field(default_factory=dict)
    _clean: dict[Arm, bool] = field(default_factory=dict)

    def train(self, arm: Arm, steps: int) -> None:
        """Takes all runs of the arm to so many steps."""
        runs = self.runs.setdefault(arm, [])
        try:
            for index, seed in enumerate(self.seeds):
                if index == len(runs):
                    runs.append(Running(self.subject, arm, seed, self.steps))
                runs[index].advance(steps)
            self.latest[arm] = [run.trial(matched=False) for run in runs]
        except GradscopeError as error:
            self.failed[arm] = f"it could not be run: {error}"
            self.latest.pop(arm, None)

    def score(self, arm: Arm) -> float:
        """The mean metric so far, larger is better; -inf where a run fails."""
        if arm in self.failed:
            return -math.inf
        return statistics.fmean(
            self.sign * trial.metric if math.isfinite(trial.metric) else -math.inf
            for trial in self.latest[arm]
        )

    def clean(self, arm: Arm) -> bool:
        """Whether nothing is left to be found in the models as they were trained."""
        if arm not in self._clean:
            profiles = [
                profile_again(self.subject, run, self.findings.profile.steps, self.seed)
                for run in self.runs[arm]
            ]
            self._clean[arm] = not remaining(self.findings, profiles, self.settings)
        return self._clean[arm]

    def best_half(self, arms: Sequence[Arm]) -> list[Arm]:
        # sorted() is stable: among equals the better guess stays.
        ranked = sorted(arms, key=self.score, reverse=True)
        return ranked[: max(1, (len(arms) + 1) // 2)]
