"""The one-way chain, written once: from a Subject to a Report."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from gradscope import registry
from gradscope.batches import described
from gradscope.checkpoints import open_checkpoint
from gradscope.checkpoints.cold import cold_profile, read_stored
from gradscope.config import Settings
from gradscope.configured import Configured, rules_to_run
from gradscope.diagnose import diagnose
from gradscope.inputs import on_inferred_inputs
from gradscope.prescribe import prescribe
from gradscope.profile import DEFAULT_STEPS, profile_steps
from gradscope.profile.preserve import preserved
from gradscope.randomness import preserved_randomness, seed_everything
from gradscope.records import (
    SCHEMA_VERSION,
    Findings,
    Plan,
    Report,
    Severity,
    Skipped,
    Status,
    Target,
    Tool,
    Verdict,
)
from gradscope.rules import describe_limits
from gradscope.subject import Subject
from gradscope.verify import DEFAULT_BUDGET, Progress, check_options, verify

__all__ = ["Repair", "fix", "repair", "scan", "scan_checkpoint"]


@dataclass(frozen=True)
class Repair:
    """What :func:`repair` leaves: the report, and the repaired model where there is one."""

    report: Report
    model: nn.Module | None


def scan(
    subject: Subject,
    *,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Report:
    """Profiles a subject and diagnoses it; nothing is tried or changed.

    Args:
        subject: what to examine; without data, inputs are made up, and the report says so.
        steps: how many batches are passed.
        seed: of the model's weights and of everything else that is drawn.
        select, ignore, settings: which rules run, and how; as of :func:`gradscope.diagnose`.
        progress: is told how far it is.

    Returns:
        The report, without plan and verdict.

    Raises:
        TargetError: the subject cannot be loaded or run.
        UsageError: ``select``, ``ignore`` or ``settings`` name a rule or limit that there is not.
    """
    settings = settings or Settings()
    with _left_alone(subject):
        examination = _examine(subject, steps, seed, select, ignore, settings, progress)
        return _report(examination, None, None)


def scan_checkpoint(
    path: str | Path,
    *,
    trust_pickle: bool = False,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Report:
    """Diagnoses a checkpoint by itself, without the model's code; nothing is run.

    Args:
        path: of a file, or of a folder that holds one checkpoint.
        trust_pickle: whether code that a pickle in it names may run.
        select, ignore, settings: which rules run, and how; as of :func:`gradscope.diagnose`.
        progress: is told how far it is.

    Raises:
        CheckpointError: it cannot be read, or would have to run code.
        UsageError: ``select``, ``ignore`` or ``settings`` name a rule or limit that there is not.
    """
    settings = settings or Settings()
    running = rules_to_run(settings, select, ignore)
    codes = [entry.rule.code for entry in running]
    checkpoint = open_checkpoint(path, trust_pickle=trust_pickle)
    profile = cold_profile(checkpoint, progress)
    findings = diagnose(profile, select=codes, settings=settings)
    parameters = sum(math.prod(each.shape) for each in checkpoint.weights.values())
    return Report(
        schema_version=SCHEMA_VERSION,
        tool=Tool("gradscope", metadata.version("torch-gradscope")),
        target=Target(checkpoint.name, checkpoint.form, parameters),
        environment=_environment(settings),
        profile=profile,
        findings=findings.items,
        plan=None,
        verdict=None,
        skipped=findings.skipped,
        refusals=(),
        limits=_limits(entry for entry in running if entry.rule.reads_stored()),
    )


def fix(
    subject: Subject,
    *,
    unsafe: bool = False,
    budget: float = DEFAULT_BUDGET,
    seeds: int | None = None,
    only: Iterable[str] = (),
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Report:
    """Scans, prescribes, tries, and reports; see :func:`repair`, whose report it returns."""
    return repair(
        subject,
        unsafe=unsafe,
        budget=budget,
        seeds=seeds,
        only=only,
        steps=steps,
        seed=seed,
        select=select,
        ignore=ignore,
        settings=settings,
        progress=progress,
    ).report


def repair(
    subject: Subject,
    *,
    unsafe: bool = False,
    budget: float = DEFAULT_BUDGET,
    seeds: int | None = None,
    only: Iterable[str] = (),
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Diagnoses a subject, tries what may repair it, and proves what does.

    The subject's own model is left alone: trials train models of their own.

    Args:
        subject: what to repair.
        unsafe: also remedies that change the forward, the parameters or the structure.
        budget: seconds that the trials may take, roughly.
        seeds: matched seeds; as many as the budget allows by default.
        only: names of the remedies to try; all by default.
        steps, seed, select, ignore, settings, progress: as of :func:`scan`.

    Returns:
        The report, and the repaired model after its first matched trial.

    Raises:
        TargetError: the subject cannot be loaded or run.
        UsageError: an argument is out of range or names nothing that exists.
    """
    check_options(budget, seeds)
    only = tuple(registry.remedy(name).name for name in only)
    settings = settings or Settings()
    with _left_alone(subject):
        examination = _examine(subject, steps, seed, select, ignore, settings, progress)
        findings = examination.findings
        if not any(finding.severity is not Severity.INFO for finding in findings):
            verdict = Verdict(Status.NOTHING_TO_FIX, "Nothing is wrong that a remedy treats.")
            return Repair(_report(examination, None, verdict), None)
        plan = prescribe(findings, examination.model, unsafe=unsafe, only=only)
        if not plan.prescriptions:
            verdict = Verdict(
                Status.NO_EFFECT,
                "No remedy applies"
                + ("" if unsafe else " that leaves the model's function alone (see the refusals)")
                + "; nothing was tried.",
            )
            return Repair(_report(examination, plan, verdict), None)
        verified = verify(
            subject,
            plan,
            findings,
            budget=budget,
            seeds=seeds,
            seed=seed,
            settings=settings,
            progress=progress,
            may_add_rate=not only or "learning-rate" in only,
        )
        return Repair(_report(examination, verified.plan, verified.verdict), verified.model)


def _left_alone(subject: Subject) -> AbstractContextManager[None]:
    """Keeps the user's own model as it is, also where the loss refers to it by itself."""
    return nullcontext() if subject.live is None else preserved(subject.live)


@dataclass(frozen=True)
class _Examination:
    subject: Subject
    model: nn.Module
    findings: Findings
    settings: Settings
    skipped: tuple[Skipped, ...]


def _examine(
    subject: Subject,
    steps: int,
    seed: int,
    select: Iterable[str] | None,
    ignore: Iterable[str] | None,
    settings: Settings,
    progress: Progress | None,
) -> _Examination:
    # Before the model runs: what cannot be meant is told at once.
    codes = [entry.rule.code for entry in rules_to_run(settings, select, ignore)]
    if progress is not None:
        progress(f"profiling {subject.name}", 0.0)
    with preserved_randomness(seed):
        model = subject.build_model()
        # Data that depends on the seed must not depend on how much the model drew.
        seed_everything(seed)
        observed = subject
        if subject.build_data is None:
            observed = on_inferred_inputs(subject, has_loss=False, model=model)
        batches = observed.data()
    profile = profile_steps(
        model,
        batches,
        observed.step,
        build_optimizer=subject.build_optimizer,
        steps=steps,
        seed=seed,
        synthetic=observed.synthetic,
    )
    skipped = subject.skipped
    if observed.synthetic:
        if all(each.what != "data" for each in skipped):
            shapes = described(next(iter(batches)))
            made_up = Skipped("data", f"none was given; inputs of {shapes} were made up")
            skipped = (made_up, *skipped)
        if subject.checkpoint is not None:
            # The optimizer saw real data; that is worth more than inputs that were made up.
            stored = read_stored(subject.checkpoint, progress)
            profile = replace(profile, stored=stored)
    findings = diagnose(profile, select=codes, settings=settings)
    return _Examination(subject, model, findings, settings, skipped)


def _report(examination: _Examination, plan: Plan | None, verdict: Verdict | None) -> Report:
    findings, subject = examination.findings, examination.subject
    skipped = [*examination.skipped, *findings.skipped]
    if subject.build_optimizer is None and verdict is not None and verdict.trials:
        skipped.append(
            Skipped("optimizer", "none was given; trials used SGD(lr=0.01, momentum=0.9)")
        )
    return Report(
        schema_version=SCHEMA_VERSION,
        tool=Tool("gradscope", metadata.version("torch-gradscope")),
        target=Target(
            subject.name,
            subject.kind,
            sum(parameter.numel() for parameter in examination.model.parameters()),
        ),
        environment=_environment(examination.settings),
        profile=findings.profile,
        findings=findings.items,
        plan=plan,
        verdict=verdict,
        skipped=tuple(skipped),
        refusals=plan.refusals if plan is not None else (),
        limits=_limits(rules_to_run(examination.settings, findings.checked)),
    )


def _limits(running: Iterable[Configured]) -> dict[str, dict[str, float]]:
    return {
        entry.rule.code: {name: float(value) for name, value, _, _ in describe_limits(entry.limits)}
        for entry in running
    }


def _environment(settings: Settings) -> dict[str, str]:
    environment = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": str(torch.__version__),
        "numpy": metadata.version("numpy"),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_initialized() else "cpu",
    }
    if settings != Settings():
        environment["settings"] = settings.source.name if settings.source else "given in Python"
    return environment
