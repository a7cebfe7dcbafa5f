"""Which of the remedies that apply is the best guess, and which go together."""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.records import Change, Findings, Prescription
from gradscope.remedies.freshness import is_trained

__all__ = ["keeps_function", "pairs", "ranked"]

# What helps most, by the kind of fault. Decision 23 says where each order comes from. A remedy in
# it that does not treat a code is not asked; one that is not in it comes last.
_NO_INFORMATION = (
    "norm-insertion", "skip-connection", "re-initialise", "activation-swap", "optimizer-swap",
    "layerwise-training",
)  # fmt: skip
_DECAY = (
    "artificial-derivative", "beta-derivative", "norm-insertion", "skip-connection",
    "re-initialise", "optimizer-swap", "activation-swap", "layerwise-training", "leaky-backward",
)  # fmt: skip
_DEAD_UNITS = (
    "artificial-derivative", "leaky-backward", "learning-rate", "activation-swap",
    "recycle-dormant", "norm-insertion", "re-initialise", "warm-up",
)  # fmt: skip
_WEIGHTS = ("re-initialise", "recycle-dormant", "norm-insertion", "learning-rate")
_STEPS = ("learning-rate", "gradient-clipping", "warm-up", "optimizer-swap", "norm-insertion")

_ORDERS = {
    "GS101": _DECAY,
    "GS102": ("re-initialise", "norm-insertion", "gradient-clipping", "learning-rate"),
    "GS104": ("gradient-clipping", "learning-rate", "warm-up"),
    "GS201": _DEAD_UNITS,
    "GS202": ("re-initialise", "norm-insertion", "learning-rate", "activation-swap"),
    "GS203": _WEIGHTS,
    "GS204": _NO_INFORMATION,
    "GS205": _NO_INFORMATION,
    "GS206": _WEIGHTS,
    "GS302": _WEIGHTS,
    "GS303": _WEIGHTS,
}

# Of these the function of trained weights survives the first step.
_GENTLE = {Change.BACKWARD, Change.TRAINING}
_GENTLE_STARTS = ("identity", "zero")

_MOST_PAIRS = 3


def ranked(candidates: Sequence[Prescription], findings: Findings) -> list[Prescription]:
    """Best guess first.

    First what treats a root cause; of that, where weights are trained, what leaves the function as
    it is at first; then in the order of what is wrong; then what is safe. Where the forward carries
    nothing any more (GS204), whatever is found beside it is ranked by that: no gradient can sort
    samples that look alike. A remedy's second and third variants stand behind the first ones of the
    others: what a remedy proposes first is its best, and trials should see many kinds.
    """
    roots = {finding.code for finding in findings if finding.cause is None}
    collapsed = "GS204" in roots
    trained = is_trained(findings.profile)
    seen: dict[str, int] = {}
    variants = []
    for candidate in candidates:
        variants.append(seen.get(candidate.remedy, 0))
        seen[candidate.remedy] = variants[-1] + 1

    def key(numbered: tuple[int, Prescription]) -> tuple[bool, bool, int, int, bool]:
        number, candidate = numbered
        code = "GS204" if collapsed and candidate.finding in _ORDERS else candidate.finding
        order = _ORDERS.get(code, _STEPS)
        place = order.index(candidate.remedy) if candidate.remedy in order else len(order)
        return (
            candidate.finding not in roots,
            trained and not keeps_function(candidate),
            variants[number],
            place,
            not candidate.safe,
        )

    return [candidate for _, candidate in sorted(enumerate(candidates), key=key)]


def keeps_function(candidate: Prescription) -> bool:
    """Whether the model computes what it did until training changes it, by intent."""
    return set(candidate.changes) <= _GENTLE or any(
        value in _GENTLE_STARTS for value in candidate.parameters.values()
    )


# What goes together, by what it changes: the one mends what the other leaves.
_TOGETHER = (
    # A better gradient, and weights from which there is something to sort.
    (Change.BACKWARD, Change.PARAMETERS),
    # A way for the signal, and weights of the right scale.
    (Change.STRUCTURE, Change.PARAMETERS),
    # A better gradient, and steps that do not depend on its scale.
    (Change.BACKWARD, Change.TRAINING),
    (Change.STRUCTURE, Change.TRAINING),
)


def pairs(best_first: Sequence[Prescription]) -> list[tuple[Prescription, Prescription]]:
    """Some pairs worth a trial, best guess first; three at most.

    Of each two kinds of change that complete each other, the best guess of each kind.
    """
    best: dict[Change, Prescription] = {}
    for candidate in best_first:
        if len(candidate.changes) == 1:
            best.setdefault(candidate.changes[0], candidate)
    found = [(best[one], best[other]) for one, other in _TOGETHER if one in best and other in best]
    return found[:_MOST_PAIRS]
