"""GS103: a trainable parameter gets no gradient at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.records import Finding, Measure, ParameterProfile, Profile, Severity, Skipped
from gradscope.rules import Rule, in_most_steps, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["Limits", "NoGradient"]


@dataclass(frozen=True)
class Limits:
    parameters: float = limit(0, "parameters", "design: any")


class NoGradient(Rule[Limits]):
    """A trainable parameter gets no gradient at all.

    ## What it does
    Lists the parameters that require a gradient, are used by a module that ran, and got none at
    any step, or exactly zero. Zero counts only where an optimizer makes updates, and not at a bias
    beside a weight that has a gradient: what is added to all outputs alike drops out of a loss on
    their differences (ranking, critics).

    ## Why it is bad
    They cannot learn: they stay as they were initialised, or shrink under weight decay. The usual
    reasons are a ``detach()`` or ``no_grad`` on the way to the loss, a forward result that is not
    used, or a layer of dead units behind them.

    ## When it is wrong
    Parameters of modules that did not run (experts that no sample was routed to, a head for
    another task) are not counted. A parameter that a schedule wakes later is reported although it
    is meant so: freeze it until then with ``requires_grad_(False)``.

    ## References
    PyTorch documentation, "Autograd mechanics".
    """

    code = "GS103"
    name = "no-gradient"
    limits = Limits()
    explained_by = ("GS401", "GS201")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        counting = [index for index, loss in enumerate(profile.losses) if loss != 0]
        if not counting:
            return Skipped(self.code, "the loss is exactly zero, so there is nothing to learn")
        eligible = [
            parameter
            for parameter in profile.parameters
            if parameter.trainable and parameter.reached and parameter.elements
        ]
        # Behind a gate that starts at zero (ReZero, LoRA) gradients are zero until the first
        # update; where there are no updates, only a gradient that does not exist is a fault.
        zero_counts = profile.optimizer is not None
        silent = [
            parameter
            for parameter in eligible
            if not any(parameter.gradient_norm)
            and (
                zero_counts
                or in_most_steps(parameter.gradient_norm[index] is None for index in counting)
            )
            and not _cancels(parameter, profile)
        ]
        if len(silent) <= limits.parameters:
            return None
        return self.finding(
            Severity.ERROR,
            [parameter.name for parameter in silent],
            f"{len(silent)} of {len(eligible)} trainable parameters get no gradient, "
            f"{silent[0].name} first.",
            {
                "parameters without gradient": Measure(
                    len(silent), limits.parameters, profile.source
                )
            },
        )

    def bad(self) -> Subject:
        return random_subject("a detached trunk", _Detached)

    def good(self) -> Subject:
        return random_subject("the same trunk, attached", lambda: perceptron(nn.ReLU, layers=2))


class _Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(32, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = torch.relu(self.trunk(x))
        return self.head(features)  # type: ignore[no-any-return]


def _cancels(parameter: ParameterProfile, profile: Profile) -> bool:
    """Whether it is a bias that makes no difference to the loss, beside a weight that does."""
    if len(parameter.shape) != 1 or None in parameter.gradient_norm:
        return False
    layer = parameter.name.rpartition(".")[0]
    return any(
        other.name.rpartition(".")[0] == layer and any(other.gradient_norm)
        for other in profile.parameters
    )
