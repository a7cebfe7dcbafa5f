"""What stands at a patched site: an artificial derivative and how much of it is used."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gradscope.derivatives import Derivative
from gradscope.errors import UsageError

__all__ = ["Setting", "checked_strength"]


class Setting:
    """An artificial derivative at one site, or at several that are switched together.

    A compiled model is traced anew only when ``mixture`` changes: in between, the share is a tensor
    that the graph reads.

    Attributes:
        site: what it was prescribed for, as the plan has it.
        derivative: the artificial derivative.
        strength: its share, 0 to 1 (dimensionless); the true derivative has the rest.
        mixture: ``artificial`` at strength 1, ``true`` at 0, else ``blend``.
        calls: how often it was used since it was put there; calls inside compiled code are not
            counted.
    """

    def __init__(self, site: str, derivative: Derivative, strength: float = 1.0) -> None:
        self.site, self.derivative = site, derivative
        self.calls = 0
        self._share = torch.ones((), dtype=torch.float64, device="cpu")
        self.set(strength)

    def set(self, strength: float) -> None:
        """Sets the share; see ``strength``.

        Raises:
            UsageError: it is not between 0 and 1.
        """
        self.strength = checked_strength(strength)
        self.mixture = {0.0: "true", 1.0: "artificial"}.get(self.strength, "blend")
        with torch.no_grad():
            self._share.fill_(self.strength)

    def __call__(self, x: Tensor, inplace: bool, arguments: dict[str, Any]) -> Tensor:
        """The operator of ``x``, bit for bit, differentiated as the mixture says."""
        strength: float | Tensor
        if not torch.compiler.is_compiling():
            self.calls += 1
            strength = self.strength
        elif not x.requires_grad:
            # Nothing flows back, and a compiler need not look for a way.
            strength = 0.0
        elif self.mixture == "blend":
            # Copied: the share may change before the backward pass comes.
            strength = self._share.clone()
        else:
            strength = float(self.mixture == "artificial")
        return self.derivative(x, inplace, strength, **arguments)


def checked_strength(strength: object) -> float:
    """The strength as a number.

    Raises:
        UsageError: it is not one between 0 and 1.
    """
    if (
        isinstance(strength, bool)
        or not isinstance(strength, (int, float))
        or math.isnan(strength)
        or not 0 <= strength <= 1
    ):
        raise UsageError(f"A strength is a number from 0 to 1, not {strength!r}.")
    return float(strength)
