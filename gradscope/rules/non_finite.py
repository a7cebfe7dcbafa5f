"""GS401: NaN or infinity, and where it came up first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["Limits", "NonFinite"]


@dataclass(frozen=True)
class Limits:
    elements: float = limit(0, "elements", "design: any")


class NonFinite(Rule[Limits]):
    """NaN or infinity, and where it came up first.

    ## What it does
    Looks for elements that are NaN or infinite: first in the weights, then in the outputs in
    execution order, then in the loss, then in the gradients from the loss back. What it finds
    first is where to look; everything behind it follows from it.

    ## Why it is bad
    One such number makes every number that depends on it the same, within a step the whole model.

    ## When it is wrong
    Masks filled with -inf are normal inside attention; they are seen only where they leave a
    layer as its output.

    ## References
    IEEE 754; PyTorch documentation, ``torch.autograd.detect_anomaly``.
    """

    code = "GS401"
    name = "non-finite"
    limits = Limits()
    # An explosion is told from finite numbers, so where both are found it came first.
    explained_by = ("GS102",)

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        suspects = [
            (
                "weights",
                [(parameter.name, parameter.nonfinite) for parameter in profile.parameters],
            ),
            ("outputs", [(site.name, max(site.forward_nonfinite)) for site in profile.sites]),
            ("loss", [("loss", sum(not math.isfinite(value) for value in profile.losses))]),
            (
                "gradients",
                [(site.name, max(site.backward_nonfinite)) for site in reversed(profile.sites)],
            ),
        ]
        for what, counts in suspects:
            faulty = [(name, count) for name, count in counts if count > limits.elements]
            if faulty:
                name, count = faulty[0]
                return self.finding(
                    Severity.ERROR,
                    [name for name, _ in faulty],
                    f"The {what} hold NaN or infinity"
                    + (
                        f", first at {name} ({count} elements)."
                        if what != "loss"
                        else f" in {count} of {profile.steps} steps."
                    ),
                    {f"non-finite {what}": Measure(count, limits.elements, profile.source)},
                )
        return None

    def bad(self) -> Subject:
        return random_subject("the logarithm of a negative number", _Logarithm)

    def good(self) -> Subject:
        return random_subject("the same without it", lambda: perceptron(nn.ReLU, layers=2))


class _Logarithm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(32, 64)
        self.after = nn.Linear(64, 10)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.after(self.before(x).log())
