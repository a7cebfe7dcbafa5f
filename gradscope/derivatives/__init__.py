"""Artificial derivatives: the forward is the native operator, only the backward differs.

One derivative per file, pure maths on tensors: the file defines the :class:`Derivative` that holds
its parameters. Modules and calls are given one by ``gradscope.patching``. What several of them
share is in ``backward.py``, ``floored.py``, ``logistic.py``, ``relu.py``, ``selective.py``,
``sigmoid.py`` and ``surrogates.py``.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.derivatives.backward import differentiate
from gradscope.discovery import concrete_classes
from gradscope.errors import PlanError

__all__ = ["Derivative", "derivative", "derivatives"]


class Derivative(ABC):
    """An artificial derivative of one operator; a frozen dataclass of its parameters.

    Calling it computes the operator on ``x`` of any shape, bit for bit as torch does, and lets
    gradients flow back through the artificial derivative. Where no gradient is recorded, and under
    ``torch.export``, it is the native operator and nothing else.

    What the operator takes after ``x``, such as the slope of a leaky ReLU, is no parameter of the
    derivative: it is passed at each call by the name that torch has for it. ``arguments`` lists the
    names with torch's defaults; modules have attributes of these names.

    Attributes:
        name: what plans call it.
        formula: in terms of input x and output y.
        source: paper and equation.
        native: the module whose backward it replaces; None where the operator has no module.
        operators: names of the functions and methods of torch that it can stand in for, those that
            work in place with their underscore.
        arguments: what the operator takes after ``x``, with torch's defaults.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    native: ClassVar[type[nn.Module] | None]
    operators: ClassVar[tuple[str, ...]]
    arguments: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def operator(self, x: Tensor, inplace: bool = False, **arguments: Any) -> Tensor:
        """The native operator, called as torch's module calls it."""

    @abstractmethod
    def true(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        """``gradient`` times the operator's own derivative, by the kernel that torch itself uses.

        ``gradient`` and ``x`` have one type; ``y`` is the output, or None where it was not kept.
        """

    @abstractmethod
    def artificial(self, gradient: Tensor, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        """``gradient`` times the artificial derivative, of differentiable operations."""

    def keeps_output(self, strength: float | Tensor) -> bool:
        """Whether the backward reads the output, as well as the input."""
        return False

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        y: Tensor | None,
        strength: float | Tensor,
        **arguments: Any,
    ) -> Tensor:
        """(1 - strength) true + strength artificial, times ``gradient``."""
        artificial = self.artificial(gradient, x, y, **arguments)
        if is_full(strength):
            return artificial
        true = self.true(gradient, x, y, **arguments)
        if isinstance(strength, Tensor):
            strength = strength.to(gradient)
        return torch.lerp(true, artificial, strength)

    def __call__(
        self,
        x: Tensor,
        inplace: bool = False,
        strength: float | Tensor = 1.0,
        **native_arguments: Any,
    ) -> Tensor:
        """The native operator of ``x``, differentiated artificially.

        Args:
            x: of any shape and floating type; the result is what torch returns for it.
            inplace: overwrite ``x``, as torch does.
            strength: the backward is (1 - strength) true + strength artificial. At 0 this is the
                native operator itself. A number, or a tensor of no dimensions.
            native_arguments: of the operator, by torch's names; what is left out is torch's
                default.

        Raises:
            TypeError: the operator has no such argument, or does not work in place.
            ValueError: the strength is not between 0 and 1.
        """
        for name in native_arguments:
            if name not in self.arguments:
                raise TypeError(
                    f"{self.name} takes no argument {name!r} of its operator; "
                    f"it takes {', '.join(self.arguments) or 'none'}."
                )
        if inplace and not any(name.endswith("_") for name in self.operators):
            raise TypeError(f"The operator of {self.name} has no in-place form.")
        is_number = not isinstance(strength, Tensor)
        if is_number and not 0 <= strength <= 1:
            raise ValueError(f"{self.name} needs a strength between 0 and 1, not {strength!r}.")
        arguments = {**self.arguments, **native_arguments}
        if not torch.is_grad_enabled() or _is_exporting() or (is_number and strength == 0):
            return self.operator(x, inplace, **arguments)
        # The copy keeps the input, which the backward needs, from being overwritten.
        kept = x.clone() if inplace else x
        y = differentiate(self, kept, strength, tuple(arguments.values()))
        return x.copy_(y) if inplace else y

    def named(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """Values of the operator's arguments, in the order of ``arguments``, with their names."""
        return dict(zip(self.arguments, arguments, strict=True))

    def require_positive(self, parameter: str, at_most: float = float("inf")) -> None:
        """Refuses a parameter that is no positive, finite number: plans are edited by hand.

        Raises:
            PlanError: it is not, or is larger than ``at_most``.
        """
        value = getattr(self, parameter)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < float("inf") or value > at_most:
            limit = "" if at_most == float("inf") else f" of at most {at_most:g}"
            raise PlanError(
                f"{self.name} needs a positive, finite {parameter}{limit}, not {value!r}."
            )


# torch 2.6 may not have it; there an exported program holds the derivative's forward all the same.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def is_full(strength: float | Tensor) -> bool:
    """Whether the artificial derivative is used alone; never looks into a tensor."""
    return not isinstance(strength, Tensor) and strength == 1


@cache
def derivatives() -> dict[str, type[Derivative]]:
    """All artificial derivatives by name."""
    return {
        found.name: found
        for found in concrete_classes(sys.modules[__name__], Derivative)  # type: ignore[type-abstract]
    }


def derivative(name: str, parameters: dict[str, Any]) -> Derivative:
    """The derivative of that name with those parameters.

    Raises:
        PlanError: there is no such derivative, or it has no such parameter.
    """
    kind = derivatives().get(name)
    if kind is None:
        raise PlanError(
            f"There is no artificial derivative {name!r}; there are {', '.join(derivatives())}."
        )
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    for parameter in parameters:
        if parameter not in known:
            raise PlanError(
                f"The artificial derivative {name} has no parameter {parameter!r}; "
                f"it has {', '.join(sorted(known)) or 'none'}."
            )
    return kind(**parameters)
