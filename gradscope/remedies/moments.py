"""What an optimizer remembers of each parameter, when parameters are changed under its hands."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["carry_over", "forget"]


def carry_over(old: Optimizer, new: Optimizer, renewed: Collection[nn.Parameter] = ()) -> None:
    """Gives a new optimizer what an old one remembers of the parameters that stay.

    Parameters that only one of them has, and those in ``renewed`` (see ``Remedy.renewed``), start
    without a past, and so does everything where the optimizers are of two kinds: moments of Adam
    mean nothing to SGD.
    """
    if type(old) is not type(new):
        return
    void = {id(parameter) for parameter in renewed}
    for group in new.param_groups:
        for parameter in group["params"]:
            if parameter in old.state and id(parameter) not in void:
                new.state[parameter] = {
                    key: value.clone() if isinstance(value, Tensor) else value
                    for key, value in old.state[parameter].items()
                }


def forget(optimizer: Optimizer, parameter: nn.Parameter, elements: Tensor) -> None:
    """Sets to zero what the optimizer remembers of the elements of ``parameter`` in a mask.

    ``elements`` is boolean and of the parameter's shape. Counts of steps stay: they belong to the
    whole parameter.
    """
    with torch.no_grad():
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value.masked_fill_(elements, 0)
