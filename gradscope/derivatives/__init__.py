"""Artificial derivatives: the forward is the native operator, only the backward differs.

One derivative per file, pure maths on tensors. Each file defines an autograd function, the
:class:`Derivative` that holds its parameters, and the module that stands in for the native one.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar

from torch import Tensor, nn

from gradscope.discovery import concrete_classes
from gradscope.errors import PlanError

__all__ = ["Derivative", "derivative", "derivatives"]


class Derivative(ABC):
    """An artificial derivative of one operator; a frozen dataclass of its parameters.

    Calling it computes the operator on ``x`` of any shape, bit for bit as torch does, and lets
    gradients flow back through the artificial derivative.

    Attributes:
        name: what plans call it.
        formula: in terms of input x and output y.
        source: paper and equation.
        native: the module whose backward it replaces.
        module: a subclass of ``native`` that calls the ``derivative`` it is given.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    native: ClassVar[type[nn.Module]]
    module: ClassVar[type[nn.Module]]

    @abstractmethod
    def __call__(self, x: Tensor, inplace: bool = False) -> Tensor:
        """The native operator of ``x``, differentiated artificially."""


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
