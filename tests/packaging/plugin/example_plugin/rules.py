"""EXA101: most of the model is frozen."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["FrozenModel", "Limits"]


@dataclass(frozen=True)
class Limits:
    frozen: float = limit(0.9, "share of the parameters' elements", "an example")


class FrozenModel(Rule[Limits]):
    """Most of the model is frozen.

    ## What it does
    Adds up the elements of the parameters with ``requires_grad=False``.

    ## Why it is bad
    What is frozen does not learn. Unfreeze it with ``requires_grad_(True)``.

    ## When it is wrong
    Adapters such as LoRA leave most of a model frozen by intent.

    ## References
    PyTorch documentation, "Autograd mechanics".
    """

    code = "EXA101"
    name = "frozen-model"
    limits = Limits()

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        frozen = [entry for entry in profile.parameters if not entry.trainable]
        elements = sum(entry.elements for entry in profile.parameters)
        share = sum(entry.elements for entry in frozen) / elements if elements else 0.0
        if share <= limits.frozen:
            return None
        return self.finding(
            Severity.WARNING,
            [entry.name for entry in frozen],
            f"{share:.1%} of the model are frozen.",
            {"frozen share": Measure(share, limits.frozen, profile.source)},
        )

    def bad(self) -> Subject:
        return random_subject("a frozen trunk", lambda: _with_trunk(trainable=False))

    def good(self) -> Subject:
        return random_subject("the same trunk, trainable", lambda: _with_trunk(trainable=True))


def _with_trunk(*, trainable: bool) -> nn.Module:
    model = perceptron(nn.ReLU, layers=3)
    for layer in model[:-1]:
        layer.requires_grad_(trainable)
    return model
