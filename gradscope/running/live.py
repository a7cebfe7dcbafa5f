"""What is alive in this process, for a moment: modules, optimizers, gradient scalers.

Not all modules are called: of a VAE that a script uses as ``model.encode(x)`` only the parts are.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

__all__ = ["Live", "parameters_of", "survey"]


@dataclass(frozen=True, slots=True)
class Live:
    """In no particular order. Not to be kept: it would keep alive what it names."""

    modules: tuple[nn.Module, ...]
    optimizers: tuple[Optimizer, ...]
    scalers: tuple[GradScaler, ...]

    def scaler_of(self, optimizer: Optimizer) -> GradScaler | None:
        """The scaler that this optimizer's step is being made through."""
        for scaler in self.scalers:
            if scaler.is_enabled() and id(optimizer) in scaler._per_optimizer_states:
                return scaler
        return None


def survey() -> Live:
    """Looks at all objects that the garbage collector knows; tens of milliseconds."""
    found: dict[type, list[object]] = {nn.Module: [], Optimizer: [], GradScaler: []}
    lists: dict[type, list[object] | None] = {}
    for each in gc.get_objects():
        # Its type: isinstance() would run code of lazy proxies.
        kind = type(each)
        if kind not in lists:
            lists[kind] = next((found[base] for base in found if base in kind.__mro__), None)
        wanted = lists[kind]
        if wanted is not None:
            wanted.append(each)
    modules, optimizers, scalers = found.values()
    return Live(tuple(modules), tuple(optimizers), tuple(scalers))  # type: ignore[arg-type]


def parameters_of(optimizer: Optimizer) -> set[int]:
    """Identities of what it trains."""
    groups = getattr(optimizer, "param_groups", ())
    return {id(each) for group in groups for each in group["params"]}
