"""What the artificial derivatives of the search do for the zoo's dead ReLU networks.

    python -m tests.zoo.derivatives --only "sigma(*"

Each subject that is labelled with dead ReLU units (GS201) is trained with each candidate of
``examples/experiments/candidates.py``, from the same weights on the same batches as with the true
derivative, at the sites where the remedy would put it. Its metric is then better, worse, or neither
by more than it differs between seeds.
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import torch

from gradscope.comparison import compare
from gradscope.derivatives import Derivative
from gradscope.derivatives.selective import Selective
from gradscope.examples.experiments.candidates import OF_RELU, Candidate
from gradscope.examples.experiments.command_line import (
    add_options,
    all_of,
    command,
    finish,
    positive,
)
from gradscope.examples.experiments.results import Run, Table
from gradscope.metric import evaluate, higher_is_better
from gradscope.patching import reach
from gradscope.pipeline import scan
from gradscope.prescribe import prescribe
from gradscope.records import Findings, Profile
from gradscope.subject import Subject
from gradscope.trial import Arm, Running
from tests.zoo.subjects import cases
from tests.zoo.subjects.case import Case

TRUE = OF_RELU[0]
STAGES = 20
"""In how many steps a candidate is handed over."""


def dead() -> list[Case]:
    return [case for case in cases().values() if case.cause == "GS201"]


def subject_of(case: Case) -> Subject:
    """Trained as the case asks."""
    subject = case.build()
    if not case.trained:
        return subject
    running = Running(subject, Arm("train"), 0)
    running.advance(case.trained)
    return replace(subject, build_model=lambda: copy.deepcopy(running.model))


def places(subject: Subject, case: Case) -> list[tuple[str, int]]:
    """Where the remedy would put a derivative, with the dimension that counts units there."""
    report = scan(subject, steps=case.steps)
    assert report.profile is not None
    findings = Findings(report.profile, report.findings)
    plan = prescribe(findings, subject.build_model(), only=("artificial-derivative",))
    choices = [plan.prescriptions, *plan.alternatives]
    sites = max((each.sites for choice in choices for each in choice), key=len)
    return [(site, _unit_axis(report.profile, site)) for site in sites]


def _unit_axis(profile: Profile, name: str) -> int:
    for site in profile.sites:
        if name in (site.name, site.module if not site.is_call else site.name.partition("@")[0]):
            return -1 if site.unit_axis == len(site.shape) - 1 else site.unit_axis
    return -1


def _at(derivative: Derivative, axis: int) -> Derivative:
    assert isinstance(derivative, Selective)
    return replace(derivative, unit_axis=axis)


def train(name: str, only: str, steps: int, seeds: int) -> list[dict[str, Any]]:
    """One subject with all candidates."""
    torch.set_num_threads(1)
    case = cases()[name]
    subject = subject_of(case)
    found = places(subject, case)
    entries = []
    for candidate in chosen(only):
        values = [_metric(subject, found, candidate, steps, seed) for seed in range(seeds)]
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


def _metric(
    subject: Subject, found: list[tuple[str, int]], candidate: Candidate, steps: int, seed: int
) -> tuple[str, float]:
    running = Running(subject, Arm(candidate.name), seed)
    put = None
    if candidate.share:
        put = reach(running.model, [(site, _at(candidate.derivative, a)) for site, a in found])
    for stage in range(1, STAGES + 1):
        running.advance(steps * stage // STAGES)
        if put is not None and not math.isinf(candidate.share):
            for setting in put.settings:
                setting.set(max(0.0, 1 - stage / STAGES / candidate.share))
    return evaluate(subject, running.model)


def chosen(only: str) -> list[Candidate]:
    return [each for each in OF_RELU if each is TRUE or fnmatch(each.name, only)]


def tables(run: Run) -> list[Table]:
    names = list(dict.fromkeys(entry["subject"] for entry in run.results))
    found = {(entry["candidate"], entry["subject"]): entry for entry in run.results}
    rows = []
    for candidate in dict.fromkeys(entry["candidate"] for entry in run.results):
        signs = {name: _sign(found[candidate, name], found[TRUE.name, name]) for name in names}
        better, worse = ([name for name in names if signs[name] == sign] for sign in "+-")
        rows.append(
            (candidate, f"{len(better)} of {len(names)}", str(len(worse)), ", ".join(better))
        )
    return [
        Table(
            "Dead ReLU networks of the zoo: metric after training",
            ("derivative", "better", "worse", "better are"),
            rows,
            f"After {run.settings['steps']} steps, beside the true derivative over "
            f"{run.settings['seeds']} seeds (paired t-test, p < 0.05). The subjects: "
            f"{', '.join(names)}. Where a run diverges the subject counts as neither.",
        )
    ]


def _sign(entry: dict[str, Any], true: dict[str, Any]) -> str:
    if not all(map(math.isfinite, (*entry["values"], *true["values"]))):
        return ""
    compared = compare(true["values"], entry["values"])
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
    sizes = (arguments.only, arguments.steps, arguments.seeds)
    calls = [(train, (case.name, *sizes)) for case in dead()]
    results = [entry for found in all_of(calls, arguments.jobs, "subjects") for entry in found]
    settings = {"steps": arguments.steps, "seeds": arguments.seeds}
    made_by = command("-m tests.zoo.derivatives", parser, arguments)
    finish(Run(made_by, settings, results), tables, arguments.json)


if __name__ == "__main__":
    main()
