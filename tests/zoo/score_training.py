"""Prints how often a monitor is right about the labelled subjects of the zoo while they train.

python -m tests.zoo.score_training [--half held-out|calibration|all] [--jobs 2] [--only NAME-GLOB]
                                   [--steps 400] [--every 10]

Every subject is trained from fresh weights with a monitor attached. Labels are of a scan at the end
of a subject's training: recall counts those that a training can show at all, whose rules judge
one. A false alarm is a healthy subject with any alert, at any time; a false alert one of a faulty
subject that nothing else explains and that its label does not name. A faulty subject goes on
training after the point that its label is of, and may break further. Alerts that only inform are
left out, as in ``tests.zoo.score``.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import torch

from gradscope import registry
from gradscope.monitor.monitor import Monitor
from gradscope.monitor.sampled import Sampled
from gradscope.records import Severity
from gradscope.training import Alert
from gradscope.trial import Arm, Running
from tests.zoo.score import HALVES, chosen, fraction, share
from tests.zoo.subjects import cases
from tests.zoo.subjects.case import Case

__all__ = ["Watched", "judged_codes", "watch", "watch_all"]

STEPS = 400
EVERY = 10


@dataclass(frozen=True)
class Watched:
    """What a monitor made of one case.

    Attributes:
        name: of the case.
        alerts: that were ever open, but for those that only inform.
        changes: how often an alert opened, closed or became more severe.
        seconds: of the processor, for the training and the monitor.
    """

    name: str
    alerts: tuple[Alert, ...]
    changes: int
    seconds: float

    @property
    def case(self) -> Case:
        return cases()[self.name]

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(alert.code for alert in self.alerts)

    @property
    def labelled(self) -> frozenset[str]:
        """What must be found of it that a training can show."""
        return self.case.must & judged_codes()

    @property
    def missed(self) -> frozenset[str]:
        return self.labelled - self.codes

    @property
    def false(self) -> list[Alert]:
        """Alerts that are not true of the case, nor explained by one that is."""
        if self.case.healthy:
            return list(self.alerts)
        return [
            alert
            for alert in self.alerts
            if alert.code not in self.case.true and alert.cause is None
        ]


def judged_codes() -> frozenset[str]:
    """Of the rules that judge a training."""
    return frozenset(code for code, rule in registry.rules().items() if rule.judges_training())


class _Training(Running):
    """The case's training, step by step."""

    def watched(self, steps: int, monitor: Monitor) -> None:
        with self._noise.resumed(), torch.enable_grad():
            for _ in range(steps):
                self._optimizer.zero_grad()
                loss = self._step(self.model, next(self._batches))
                if loss.requires_grad:
                    loss.backward()
                    self._optimizer.step()
                monitor.step(loss)

    def monitor(
        self, every: int, on_finding: Callable[[Alert], None], on_sample: Callable[[Sampled], None]
    ) -> Monitor:
        return Monitor(
            self.model,
            self._optimizer,
            store=None,
            every=every,
            overhead=None,
            strict=True,
            on_finding=on_finding,
            on_sample=on_sample,
        )


def watch(
    name: str,
    *,
    seed: int = 0,
    steps: int = STEPS,
    every: int = EVERY,
    on_sample: Callable[[Sampled], None] = lambda _: None,
) -> Watched:
    """Trains a case with a monitor, ``steps`` beyond those that the case asks for."""
    case, start = cases()[name], time.process_time()
    training = _Training(case.build(), Arm("train"), seed)
    changes: list[Alert] = []
    try:
        with training.monitor(every, changes.append, on_sample) as monitor:
            training.watched(case.trained + steps, monitor)
    except Exception as error:
        error.add_note(f"in the case {name}")
        raise
    alerts = tuple(each for each in monitor.alerts if each.severity is not Severity.INFO)
    return Watched(name, alerts, len(changes), time.process_time() - start)


def watch_all(
    names: Iterable[str], *, jobs: int, seed: int, steps: int, every: int
) -> Iterator[Watched]:
    """Trains cases in several processes."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(partial(watch, seed=seed, steps=steps, every=every), list(names))


# --- Printing ---------------------------------------------------------------------------------


def print_score(seen: Sequence[Watched]) -> None:
    labelled = Counter(code for each in seen for code in each.labelled)
    missed = Counter(code for each in seen for code in each.missed)
    reported = Counter(alert.code for each in seen for alert in each.alerts)
    false = Counter(alert.code for each in seen for alert in each.false)
    print(f"{'rule':30}{'recall':>18}{'true alerts':>18}")
    for code in sorted(judged_codes()):
        found, right = labelled[code] - missed[code], reported[code] - false[code]
        name = registry.rules()[code].name
        print(f"{code} {name:24}{fraction(found, labelled[code])}{fraction(right, reported[code])}")
    healthy = [each for each in seen if each.case.healthy]
    alarms = sum(bool(each.alerts) for each in healthy)
    faulty = [each for each in seen if each.labelled]
    found = sum(bool(each.codes & each.case.true) for each in faulty)
    print(f"\n{len(healthy)} healthy subjects, {alarms} false alarms")
    print(f"{len(faulty)} subjects with faults that a training can show, {found} alerted of")
    recall = share(labelled.total() - missed.total(), labelled.total())
    true = share(reported.total() - false.total(), reported.total())
    print(f"recall {recall:.1%}, {true:.1%} of the alerts are true")
    print(f"{reported.total()} alerts changed {sum(each.changes for each in seen)} times\n")
    for each in seen:
        for alert in each.false:
            title = "false alarm" if each.case.healthy else "false alert"
            print(f"{title}: {each.name}: step {alert.step}: {alert.code} {alert.message}")
        if each.missed:
            other = ", ".join(sorted(each.codes)) or "nothing"
            print(f"miss: {each.name}: {', '.join(sorted(each.missed))} not found, but {other}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--half", choices=HALVES, default="all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="*", help="a glob of names of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="beyond those of the case")
    parser.add_argument("--every", type=int, default=EVERY, help="steps between samples")
    options = parser.parse_args()
    seen = watch_all(
        chosen(options.half, options.only),
        jobs=options.jobs,
        seed=options.seed,
        steps=options.steps,
        every=options.every,
    )
    print_score(list(seen))


if __name__ == "__main__":
    main()
