"""What the modules with an artificial derivative have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from gradscope.derivatives import Derivative

__all__ = ["ArtificialModule"]


class ArtificialModule(nn.Module):
    """Stands before the native class among the bases of a module that calls a derivative.

    Attributes:
        derivative: set by whoever makes the module artificial.
        strength: share of the artificial derivative in the backward, 0 to 1. A number, or a tensor
            of no dimensions: compiled code is compiled again for each new number, not for a tensor.
    """

    derivative: Derivative
    strength: float | Tensor = 1.0

    def forward(self, input: Tensor) -> Tensor:
        chosen = self.derivative
        arguments = {name: getattr(self, name) for name in chosen.arguments}
        inplace = getattr(self, "inplace", False)
        return chosen(input, inplace, self.strength, **arguments)

    def extra_repr(self) -> str:
        worn = repr(self.derivative) if hasattr(self, "derivative") else ""
        return ", ".join(filter(None, (super().extra_repr(), worn)))
