"""Findings -> Plan: asks the remedies what they could do, and ranks what they answer."""

from __future__ import annotations

from torch import nn

from gradscope import registry
from gradscope.choosing import pairs, ranked
from gradscope.profile.sharding import bare
from gradscope.records import Findings, Plan, Prescription, Refusal

__all__ = ["prescribe"]


def prescribe(
    findings: Findings,
    model: nn.Module,
    *,
    unsafe: bool = False,
    only: tuple[str, ...] = (),
) -> Plan:
    """Says what could be done about the findings; nothing is changed.

    Args:
        findings: as diagnosed, with their profile.
        model: the model they are of.
        unsafe: also remedies that change the forward, the parameters or the structure.
        only: names of the remedies to consider; all of them by default.

    Returns:
        A plan whose prescription is the best guess, with the other candidates as alternatives,
        best guess first, then some of them in pairs, and each remedy that does not apply as a
        refusal with its reason.

    Raises:
        UsageError: ``only`` names no remedy.
    """
    remedies = [registry.remedy(name) for name in only] or list(registry.remedies().values())
    candidates: list[Prescription] = []
    refusals: list[Refusal] = []
    model = bare(model)
    for finding in findings:
        for remedy in remedies:
            if finding.code not in remedy.treats:
                continue
            for proposal in remedy.propose(finding, findings.profile, model):
                if isinstance(proposal, Refusal):
                    refusals.append(proposal)
                elif not (unsafe or proposal.safe):
                    changes = ", ".join(change.value for change in proposal.changes)
                    refusals.append(
                        remedy.refusal(f"it changes the model's {changes}; allow it with --unsafe")
                    )
                elif not any(_same(proposal, candidate) for candidate in candidates):
                    candidates.append(proposal)
    if not candidates:
        return Plan(refusals=_without_repeats(refusals))
    best, *others = ranked(candidates, findings)
    return Plan(
        prescriptions=(best,),
        alternatives=(*((other,) for other in others), *pairs([best, *others])),
        refusals=_without_repeats(refusals),
    )


def _same(one: Prescription, other: Prescription) -> bool:
    return (one.remedy, one.sites, one.parameters) == (other.remedy, other.sites, other.parameters)


def _without_repeats(refusals: list[Refusal]) -> tuple[Refusal, ...]:
    return tuple(dict.fromkeys(refusals))
