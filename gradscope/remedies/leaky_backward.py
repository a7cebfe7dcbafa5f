"""Let ReLU pass a small share of the gradient where it is off, as LeakyReLU does."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from gradscope.derivatives import Derivative, derivative
from gradscope.records import Finding, Prescription, Profile, Refusal
from gradscope.remedies import sites_found
from gradscope.remedies.artificial_derivative import STRENGTH, UNIT_AXIS, Differentiating

__all__ = ["LeakyBackward"]

_NAME = "relu-leaky"


class LeakyBackward(Differentiating):
    """Let ReLU pass a small share of the gradient where it is off, as LeakyReLU does.

    ## What it does
    In the backward pass of ReLUs, modules and calls alike, the derivative where x <= 0 becomes
    `slope`, 0.01 by default, in place of 0; where x > 0 it stays 1. The forward pass stays ReLU,
    bit for bit.

    ## When it applies
    Units are dead: they get a gradient again, a hundredth of what live ones get. Where a unit is
    on, its gradient is exact, so live networks are disturbed less than by the smooth artificial
    derivative, and dead units wake more slowly.

    ## When it must not be applied
    Where every unit of a layer is dead on every sample, what reaches the layers below shrinks to
    the slope at each such layer: new biases or weights do more. Where zeros are meant, as in
    sparse codes, their units drift.

    ## Fix safety
    Safe: outputs, weights and keys are unchanged. The gradient is biased where units are off:
    `gradscope.bias` says how much, and `gradscope.Annealing` hands over to the true one.

    ## References
    freegrad (forward ReLU, backward LeakyReLU); Maas, Hannun, Ng 2013 for the slope.
    """

    name = "leaky-backward"
    treats = ("GS201",)
    parameters: ClassVar[dict[str, str]] = {
        "slope": "what passes where a unit is off, above 0 and at most 1; 0.01 by default",
        "strength": STRENGTH,
        "selective": "whether units that are not dead on a batch keep their derivative",
        "unit_axis": UNIT_AXIS,
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        _, everywhere, refused = self.reachable(
            self.derivative_of({}), profile, model, sites_found(profile, finding)
        )
        if not everywhere:
            return [*refused] or [self.refusal("there is no ReLU in this model")]
        reason = (
            "dead units get a share of the gradient, and live ones keep theirs where they are on"
        )
        return [self.prescription(finding, reason, everywhere, slope=0.01), *refused]

    def derivative_of(self, settings: dict[str, Any]) -> Derivative:
        return derivative(_NAME, settings)
