"""What the artificial derivatives of the search do for the zoo's dead ReLU networks.

    python -m tests.zoo.derivatives

Each subject that is labelled with dead ReLU units (GS201) is trained with each of ReLU's candidates
in ``examples/experiments/candidates.py``, from the same weights on the same batches as with the
true derivative, at the sites where the remedy would put it. Its metric is then better, worse, or
neither by more than it differs between seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import torch

from gradscope.comparison import compare
from gradscope.derivatives import Derivative
from gradscope.derivatives.selective import Selective
from gradscope.examples.experiments.candidates import OF_RELU, TRUE, Candidate, train_with
from gradscope.examples.experiments.command_line import (
    add_options,
    all_of,
    command,
    finish,
    positive,
)
from gradscope.examples.experiments.results import Run, Table
from gradscope.metric import evaluate, higher_is_better
from gradscope.pipeline import scan
from gradscope.prescribe import prescribe
from gradscope.records import Findings
from gradscope.remedies.artificial_derivative import unit_axis
from gradscope.subject import Subject
from gradscope.trial import Arm, Running
from tests.zoo.examining import trained
from tests.zoo.subjects import cases
from tests.zoo.subjects.case import Case


def dead() -> list[Case]:
    return [case for case in cases().values() if case.cause == "GS201"]


def places(subject: Subject, case: Case) -> list[tuple[str, int]]:
    """Where the remedy would put a derivative, with the dimension that counts units there."""
    report = scan(subject, steps=case.steps)
    assert report.profile is not None
    findings = Findings(report.profile, report.findings)
    plan = prescribe(findings, subject.build_model(), only=("artificial-derivative",))
    choices = [plan.prescriptions, *plan.alternatives]
    sites = max((each.sites for choice in choices for each in choice), key=len)
    return [(site, unit_axis(report.profile, site)) for site in sites]


def _at(derivative: Derivative, axis: int) -> Derivative:
    assert isinstance(derivative, Selective)
    return replace(derivative, unit_axis=axis)


def train(name: str, only: str, steps: int, seeds: int) -> list[dict[str, Any]]:
    """One subject with all candidates."""
    torch.set_num_threads(1)
    case = cases()[name]
    subject = trained(case, 0)
    found = places(subject, case)
    entries = []
    for candidate in chosen(only):
        values = [metric_of(subject, found, candidate, steps, seed) for seed in range(seeds)]
        entries.append(
            {
                "subject": name,
                "candidate": candidate.name,
                "higher_is_better": higher_is_better(subject, values[0][0]),
                "metric": values[0][0],
                "values": [float(f"{value:.5g}") for _, value in values],
            }
        )
    return entries


def metric_of(
    subject: Subject, found: list[tuple[str, int]], candidate: Candidate, steps: int, seed: int
) -> tuple[str, float]:
    running = Running(subject, Arm(candidate.name), seed)
    derivatives = [(site, _at(candidate.derivative, axis)) for site, axis in found]
    train_with(candidate, running, derivatives, steps)
    return evaluate(subject, running.model)


def chosen(only: str) -> list[Candidate]:
    return [each for each in OF_RELU if each.name == TRUE or fnmatch(each.name, only)]


def tables(run: Run) -> list[Table]:
    names = list(dict.fromkeys(entry["subject"] for entry in run.results))
    found = {(entry["candidate"], entry["subject"]): entry for entry in run.results}
    rows = []
    for candidate in dict.fromkeys(entry["candidate"] for entry in run.results):
        signs = {name: sign(found[candidate, name], found[TRUE, name]) for name in names}
        better, worse = ([name for name in names if signs[name] == sign] for sign in "+-")
        runs = [value for name in names for value in found[candidate, name]["values"]]
        rows.append(
            (
                candidate,
                f"{len(better)} of {len(names)}",
                str(len(worse)),
                f"{diverged(runs)} of {len(runs)}",
                ", ".join(better) or "–",
                ", ".join(worse) or "–",
            )
        )
    seeds = run.settings["seeds"]
    by_candidate = [
        (candidate, *(_ended(found[candidate, name], seeds) for name in names))
        for candidate in dict.fromkeys(entry["candidate"] for entry in run.results)
    ]
    return [
        Table(
            "Dead ReLU networks of the zoo: better and worse than with the true derivative",
            ("derivative", "better", "worse", "runs that diverged", "better are", "worse are"),
            rows,
            f"Metric after {run.settings['steps']} steps over {seeds} seeds. Better, worse: by a "
            "paired t-test, p < 0.05, of the seeds on which neither diverges; worse, too, where "
            "more runs diverge.",
        ),
        Table(
            "Dead ReLU networks of the zoo: median of the metric after training",
            ("derivative", *names),
            by_candidate,
            "A loss, lower is better. In brackets how many runs diverged, which count as the worst."
            " Where the numbers are those of the true derivative, nothing came alive.",
        ),
    ]


def diverged(values: Sequence[float]) -> int:
    return sum(not math.isfinite(value) for value in values)


def _ended(entry: dict[str, Any], seeds: int) -> str:
    """The median, and how many runs diverged."""
    assert not entry["higher_is_better"]
    worst_last = sorted(entry["values"], key=lambda value: (not math.isfinite(value), value))
    middle = worst_last[seeds // 2]
    count = diverged(entry["values"])
    text = f"{middle:.3g}" if math.isfinite(middle) else "diverged"
    return f"{text} ({count})" if count else text


def sign(entry: dict[str, Any], true: dict[str, Any]) -> str:
    """``+`` where a candidate's runs end better than the true derivative's, ``-`` where worse."""
    pairs = zip(true["values"], entry["values"], strict=True)
    ended = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if diverged(entry["values"]) > diverged(true["values"]):
        return "-"
    if len(ended) < 2:
        return ""
    compared = compare(*zip(*ended, strict=True))
    if not compared.significant:
        return ""
    return "+" if (compared.difference > 0) == entry["higher_is_better"] else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="*", help="names of candidates, with * for any text")
    parser.add_argument("--steps", type=positive, default=300)
    parser.add_argument("--seeds", type=positive, default=5)
    add_options(parser)
    arguments = parser.parse_args()
    if len(chosen(arguments.only)) == 1 and arguments.only != TRUE:
        parser.error(f"no candidate is called {arguments.only!r}")
    sizes = (arguments.only, arguments.steps, arguments.seeds)
    calls = [(train, (case.name, *sizes)) for case in dead()]
    results = [entry for found in all_of(calls, arguments.jobs, "subjects") for entry in found]
    settings = {"steps": arguments.steps, "seeds": arguments.seeds}
    made_by = command("-m tests.zoo.derivatives", parser, arguments)
    finish(Run(made_by, settings, results), tables, arguments.json)


if __name__ == "__main__":
    main()
