"""Profile -> Findings: runs the rules and says which finding explains which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gradscope import registry
from gradscope.config import Settings
from gradscope.configured import Configured, rules_to_run
from gradscope.records import Finding, Findings, Profile, Skipped, Source
from gradscope.rules.training import TrainingProfile

__all__ = ["cause_of", "diagnose"]


def diagnose(
    profile: Profile,
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    settings: Settings | None = None,
) -> Findings:
    """Runs the rules over a profile.

    What is found in a checkpoint (``Profile.stored``) counts where the rule finds nothing in what
    was measured. Of a training that goes on, only those rules are asked that can judge it.

    Args:
        profile: as measured, or read, or both.
        select: codes, names or code prefixes of the rules to run, in place of those that the
            settings select and ignore; all by default.
        ignore: rules to leave out, beside those that the settings ignore.
        settings: limits in place of the defaults, rules, and sites that a rule is not shown.

    Returns:
        The findings, causes before what they explain, each with its cause and the remedies that
        treat it; and what the rules had to skip.

    Raises:
        UsageError: ``select``, ``ignore`` or ``settings`` name a rule or limit that there is not.
    """
    running = rules_to_run(settings or Settings(), select, ignore)
    rules = [entry.rule for entry in running]
    found: dict[str, Finding] = {}
    skipped = list(profile.skipped)
    if not profile.measured and profile.stored is not None:
        unread = [rule.code for rule in rules if not rule.reads_stored()]
        if unread:
            reason = "a checkpoint alone does not tell; give the model with --model"
            skipped.append(Skipped(", ".join(unread), reason))
        running = [entry for entry in running if entry.rule.reads_stored()]
    if isinstance(profile, TrainingProfile):
        running = [entry for entry in running if entry.rule.judges_training()]
    for entry in running:
        shown = entry.shown(profile)
        if shown is not profile:
            skipped.append(
                Skipped(
                    f"{entry.rule.code} at {', '.join(entry.unseen)}",
                    "the settings ignore it there",
                )
            )
        match _checked(entry, shown):
            case Finding() as finding:
                found[entry.rule.code] = finding
            case Skipped() as skip:
                skipped.append(skip)
    items = [
        replace(
            found[rule.code],
            cause=cause_of(found[rule.code], found, profile),
            remedies=tuple(remedy.name for remedy in registry.treating(rule.code)),
        )
        for rule in rules
        if rule.code in found
    ]
    return Findings(
        profile,
        tuple(_causes_first(items)),
        tuple(skipped),
        tuple(rule.code for rule in rules),
    )


def _checked(entry: Configured, shown: Profile) -> Finding | Skipped | None:
    """What a rule says: of what was measured, else of what a checkpoint tells beside it."""
    rule = entry.rule
    if shown.stored is not None and not shown.measured:
        return rule.check_stored(shown.stored, entry.limits)
    measured: Finding | Skipped | None
    if isinstance(shown, TrainingProfile):
        return rule.check_training(shown, entry.limits)
    if rule.needs_data and shown.source is Source.SYNTHETIC:
        measured = Skipped(rule.code, "it needs data: the inputs and the loss are made up")
    else:
        measured = rule.check(shown, entry.limits)
    if shown.stored is None or isinstance(measured, Finding) or not rule.reads_stored():
        return measured
    stored = rule.check_stored(shown.stored, entry.limits)
    # What the weights tell shows better in a model that was run.
    return stored if isinstance(stored, Finding) and _was_remembered(stored) else measured


def _was_remembered(finding: Finding) -> bool:
    """Whether it is an optimizer that tells."""
    return any(each.source is Source.OPTIMIZER_STATE for each in finding.evidence.values())


def cause_of(finding: Finding, found: Mapping[str, Finding], profile: Profile) -> str | None:
    """Code of the most fundamental fault found that explains this one, and came before it."""
    rule, shows = registry.rules()[finding.code], finding.since
    for code in rule.explained_by:
        if code not in found or not rule.brought_about(found[code], profile):
            continue
        # What is remembered of the real data is of other steps than those on made-up inputs.
        together = _was_remembered(found[code]) is _was_remembered(finding)
        if together or not profile.measured:
            # Of two faults of the updates, one can be there as soon as the other.
            late = registry.rules()[code].acts_after_update and not rule.acts_after_update
            if found[code].since + late <= shows or rule.whole:
                return code
    return None


def _causes_first(items: list[Finding]) -> list[Finding]:
    """Root causes, the one with the worst consequences first, each followed by what it explains."""

    def with_symptoms(finding: Finding) -> list[Finding]:
        explained = [item for item in ranked if item.cause == finding.code]
        return [finding, *(entry for item in explained for entry in with_symptoms(item))]

    ranked = sorted(items, key=lambda item: (item.severity.rank, item.since, item.code))
    trees = [with_symptoms(item) for item in ranked if item.cause is None]
    trees.sort(key=lambda tree: min(item.severity.rank for item in tree))
    return [item for tree in trees for item in tree]
