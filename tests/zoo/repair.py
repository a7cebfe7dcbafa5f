"""Prints how many of the zoo's faulty subjects ``gradscope fix`` repairs.

python -m tests.zoo.repair [--half held-out|calibration|all] [--only NAME-GLOB] [--budget 60]

Only subjects count whose fault some remedy can cure; a wrong loss, frozen parameters or inputs that
are not scaled are for their author to mend. Beside the verdicts stand the controls: how often the
findings go away by training on, and what the trials say of one remedy picked at random among those
that were proposed, and of the best other learning rate.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from multiprocessing import get_context

import torch

from gradscope.comparison import compare
from gradscope.pipeline import fix
from gradscope.records import DO_NOTHING, Findings, Plan, Status
from gradscope.remaining import profile_again, remaining
from gradscope.subject import Subject
from gradscope.trial import Arm, Running
from gradscope.verify import verify
from tests.zoo.examining import trained
from tests.zoo.score import HALVES
from tests.zoo.subjects import cases
from tests.zoo.subjects.case import Case

__all__ = ["Repaired", "repair_case"]


@dataclass(frozen=True)
class Repaired:
    """What ``fix`` made of one subject.

    Attributes:
        status: of the verdict; None where nothing was found or could be tried.
        repair: remedies that won the trials.
        before, after: the metric, mean over the matched seeds.
        random: status of a remedy picked at random; None where none could be tried.
        goes_away: whether the findings are gone after training on, with nothing done; None where
            nothing was tried.
        rate_helps: whether the best other learning rate alone beats doing nothing on the matched
            seeds; None where it was not tried.
        failed: whether fix raised an error.
        note: the verdict's reason.
    """

    name: str
    cause: str
    status: Status | None
    repair: str
    before: float
    after: float
    note: str
    random: Status | None = None
    goes_away: bool | None = None
    rate_helps: bool | None = None
    failed: bool = False


def repair_case(case: Case, *, budget: float, seed: int = 0) -> Repaired:
    """Trains the case as it asks, and lets ``fix`` repair what has become of it."""
    subject = trained(case, seed)
    report = fix(subject, unsafe=True, budget=budget, steps=case.steps, seed=seed)
    verdict = report.verdict
    assert case.cause is not None
    if verdict is None or report.plan is None or not verdict.trials:
        refusals = "; ".join(f"{each.remedy}: {each.reason}" for each in report.refusals[:3])
        status = None if verdict is None else verdict.status
        return Repaired(case.name, case.cause, status, "", math.nan, math.nan, refusals)
    arms: dict[str, list[float]] = {}
    for trial in verdict.trials:
        if trial.matched:
            arms.setdefault(trial.arm, []).append(trial.metric)
    repairs = [arm for arm in arms if not arm.startswith(DO_NOTHING)]
    rates = [arm for arm in arms if arm.startswith(f"{DO_NOTHING},")]
    assert report.profile is not None
    findings = Findings(report.profile, report.findings)
    choices = [one for one in (report.plan.prescriptions, *report.plan.alternatives) if one]
    picked = random.Random(case.name).choice(choices)
    chance = verify(subject, Plan(picked), findings, budget=budget / 3, seed=seed)
    return Repaired(
        case.name,
        case.cause,
        verdict.status,
        repairs[0],
        math.nan if verdict.before is None else verdict.before,
        math.nan if verdict.after is None else verdict.after,
        verdict.reason,
        chance.verdict.status,
        _goes_away(subject, findings, verdict.trials[-1].steps, seed),
        _helps(arms, rates[0], verdict.higher_is_better) if rates else None,
    )


def _goes_away(subject: Subject, findings: Findings, steps: int, seed: int) -> bool:
    """Whether the findings are gone after so many steps of training, with nothing done."""
    running = Running(subject, Arm(DO_NOTHING), seed)
    running.advance(steps)
    again = profile_again(subject, running, findings.profile.steps, seed)
    return not remaining(findings, [again], None)


def _helps(arms: dict[str, list[float]], arm: str, higher_is_better: bool) -> bool:
    """Whether the arm beats doing nothing; a run that diverged counts as the worst of all."""
    finite = [value for values in arms.values() for value in values if math.isfinite(value)]
    if not finite:
        return False
    worst = min(finite) if higher_is_better else max(finite)
    before, after = (
        [value if math.isfinite(value) else worst for value in arms[each]]
        for each in (DO_NOTHING, arm)
    )
    if len(before) != len(after) or len(before) < 2:
        return False
    compared = compare(before, after)
    return compared.significant and (compared.difference > 0) == higher_is_better


def _repair_named(name: str, budget: float) -> Repaired:
    torch.set_num_threads(1)
    try:
        return repair_case(cases()[name], budget=budget)
    except Exception as error:
        case = cases()[name]
        note = f"{type(error).__name__}: {error}"
        return Repaired(name, case.cause or "", None, "", math.nan, math.nan, note, failed=True)


def chosen(half: str, only: str) -> list[str]:
    """Names of the faulty subjects that a remedy can cure."""
    return [
        name
        for name, case in cases().items()
        if case.curable and case.architecture in HALVES[half] and fnmatch(name, only)
    ]


def _status(each: Repaired) -> str:
    if each.failed:
        return "error"
    return each.status.value if each.status else "nothing tried"


def _line(each: Repaired) -> str:
    said = (
        f"{each.cause} {each.name:40} {_status(each):14} {each.before:9.3g} -> {each.after:9.3g} "
    )
    return said + (each.repair if each.status is Status.FIXED else f"{each.repair}: {each.note}")


def print_table(results: Sequence[Repaired]) -> None:
    for each in results:
        print(_line(each))
    statuses = Counter(map(_status, results))
    print(f"\n{len(results)} subjects")
    for status, count in statuses.most_common():
        print(f"{status:24} {count / len(results):6.1%}")
    print("\nbeside it")
    gone = [each.goes_away for each in results if each.goes_away is not None]
    if gone:
        share = sum(gone) / len(gone)
        print(f"{'do nothing':24} {share:6.1%} the findings are gone after training on")
    tried = [each.random for each in results if each.random is not None]
    if tried:
        fixed = tried.count(Status.FIXED) / len(tried)
        print(f"{'a remedy at random':24} {fixed:6.1%} fixed, of {len(tried)} where one was tried")
    rates = [each.rate_helps for each in results if each.rate_helps is not None]
    if rates:
        share = sum(rates) / len(rates)
        print(f"{'learning rate alone':24} {share:6.1%} better than doing nothing, of {len(rates)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--half", choices=HALVES, default="held-out")
    parser.add_argument("--only", default="*", metavar="NAME-GLOB")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each subject")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    options = parser.parse_args()
    results = []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        waiting = [
            pool.submit(_repair_named, name, options.budget)
            for name in chosen(options.half, options.only)
        ]
        for future in waiting:
            results.append(future.result())
            done = f"{len(results)}/{len(waiting)}"
            print(done, _line(results[-1]), flush=True)
    print()
    print_table(results)
    return 1 if any(each.failed for each in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
