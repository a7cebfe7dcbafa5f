"""Raise the sigmoid's derivative by a constant, so that saturated units get a gradient."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from gradscope.derivatives import Derivative, derivative
from gradscope.records import Finding, Prescription, Profile, Refusal
from gradscope.remedies import sites_found
from gradscope.remedies.artificial_derivative import STRENGTH, UNIT_AXIS, Differentiating

__all__ = ["BetaDerivative"]

_NAME = "sigmoid-beta"


class BetaDerivative(Differentiating):
    """Raise the sigmoid's derivative by a constant.

    ## What it does
    In the backward pass of sigmoids, modules and calls alike, y (1 - y) becomes y (1 - y) + beta,
    beta being 0.05. The forward pass stays the native sigmoid, bit for bit.

    ## When it applies
    Sigmoid units are saturated: however far out they are, beta of the gradient comes through. Or
    the gradient decays over depth: each layer passes at least beta of it.

    ## When it must not be applied
    When the forward signal has collapsed, a better gradient has nothing to sort the samples by. To
    gates that are meant to be shut: their gradient is meant to be small, too.

    ## Fix safety
    Safe: outputs, weights and keys are unchanged. The gradient is that of sigma(x) + beta x, which
    is not the network's function: `gradscope.bias` says how far off it is, and
    `gradscope.Annealing` hands over to the true one.

    ## References
    The slides (Vanishing Problem, Other Methods: a new approach for the vanishing gradient problem
    on sigmoid activation), algorithm 1, beta = 0.05. They print 1 + sigma once; their text, that
    the two derivatives differ by the constant beta, is what is meant.
    """

    name = "beta-derivative"
    treats = ("GS101", "GS202")
    parameters: ClassVar[dict[str, str]] = {
        "beta": "what is added to the derivative, above 0 and at most 1; 0.05 by default",
        "strength": STRENGTH,
        "selective": "whether units that are not saturated on a batch keep their derivative",
        "unit_axis": UNIT_AXIS,
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        if finding.cause == "GS204":
            return [self.collapsed()]
        found = sites_found(profile, finding)
        chosen = self.derivative_of({})
        here, everywhere, refused = self.reachable(chosen, profile, model, found)
        sites = here if finding.code == "GS202" else everywhere
        refused = [*self.fused(found, model), *refused]
        if not sites:
            return [*refused] or [self.refusal("there is no sigmoid at these sites")]
        reason = "a constant share of the gradient passes each sigmoid, saturated or not"
        return [self.prescription(finding, reason, sites, beta=0.05), *refused]

    def derivative_of(self, settings: dict[str, Any]) -> Derivative:
        return derivative(_NAME, settings)
