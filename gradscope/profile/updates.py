"""Optimizer steps, and how far they really moved each parameter."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.checked import update
from gradscope.profile import statistics
from gradscope.profile.exchange import local

__all__ = ["epsilon_of", "measured_update"]


def epsilon_of(optimizer: Optimizer) -> float | None:
    """The ``eps`` of an optimizer that divides each gradient by its own magnitude, else None.

    Adam and its relatives make updates whose size does not depend on the gradient's scale, down to
    where gradients get as small as eps.
    """
    epsilon = optimizer.defaults.get("eps")
    # Adafactor keeps a pair; the first is added to the squared gradient.
    if isinstance(epsilon, tuple):
        return None if epsilon[0] is None else float(epsilon[0]) ** 0.5
    return None if epsilon is None else float(epsilon)


def measured_update(
    optimizer: Optimizer, parameters: list[nn.Parameter]
) -> list[tuple[Tensor, Tensor]]:
    """Takes one optimizer step.

    Returns:
        For each parameter, of what this process holds, the sum of squares of its change and of
        its elements before.
    """
    before = [local(parameter.detach()).clone() for parameter in parameters]
    update(optimizer)
    moved = []
    for parameter, old in zip(parameters, before, strict=True):
        size = statistics.squares(old)
        moved.append((statistics.squares(old.sub_(local(parameter.detach()))), size))
    return moved
