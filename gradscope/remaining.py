"""Profiles of repaired models -> the codes that are still found in them."""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.config import Settings
from gradscope.diagnose import diagnose
from gradscope.profile import profile_steps
from gradscope.randomness import preserved_randomness
from gradscope.records import Findings, Profile, Severity
from gradscope.subject import Subject
from gradscope.trial import Running, training_of

__all__ = ["profile_again", "remaining"]


def profile_again(subject: Subject, run: Running, steps: int, seed: int) -> Profile:
    """The profile of a repaired and trained model, on the batches that the findings are of."""
    with preserved_randomness(seed):
        batches = subject.data()
    return profile_steps(
        run.model,
        batches,
        subject.step,
        build_optimizer=run.patch.training(training_of(subject)).build_optimizer,
        steps=steps,
        seed=seed,
    )


def remaining(
    findings: Findings, profiles: Sequence[Profile], settings: Settings | None
) -> tuple[str, ...]:
    """Codes found in at least half of the profiles: those of ``findings``, and new errors."""
    after = [
        {
            finding.code
            for finding in diagnose(profile, select=findings.checked or None, settings=settings)
            if finding.code in findings.codes or finding.severity is Severity.ERROR
        }
        for profile in profiles
    ]
    return tuple(
        code
        for code in sorted(set().union(*after))
        if sum(code in found for found in after) * 2 >= len(after)
    )
