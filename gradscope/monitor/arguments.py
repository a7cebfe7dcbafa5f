"""What a monitor is given: checked, and said in a run's own terms."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from gradscope.errors import UsageError
from gradscope.monitor.optimizers import bare_optimizer
from gradscope.profile.parameters import epsilon_of
from gradscope.profile.sharding import bare
from gradscope.training import RunInfo

__all__ = ["Listeners", "check", "described", "listeners", "one_model", "optimizers_in", "roots"]

Listeners = Callable[[Any], object] | Iterable[Callable[[Any], object]]


def roots(model: object) -> list[nn.Module]:
    """The models without wrappers."""
    if isinstance(model, nn.Module):
        return [bare(model)]
    if isinstance(model, Mapping) and model:
        return [bare(each) for each in model.values()]
    raise UsageError(
        f"Monitor takes a module, or several as {{name: module}}, not a {type(model).__name__}."
    )


def one_model(model: object) -> nn.Module:
    """The model without wrappers; several as one that has them as children."""
    each = roots(model)
    if isinstance(model, Mapping):
        return nn.ModuleDict(dict(zip(map(_key, model), each, strict=True)))
    return each[0]


def _key(name: object) -> str:
    """A name that a container of modules takes: without dots, and none of its methods'."""
    key = str(name).replace(".", "_") or "model"
    return f"{key}_" if hasattr(nn.ModuleDict, key) else key


def optimizers_in(given: object) -> list[Optimizer]:
    """The optimizers without wrappers; none for None."""
    if given is None:
        return []
    several: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
    for each in several:
        if not isinstance(each, Optimizer):
            raise UsageError(f"Monitor takes optimizers of torch's, not a {type(each).__name__}.")
    return [bare_optimizer(each) for each in several]


def listeners(given: Listeners) -> list[Callable[[Any], object]]:
    """One function, or several."""
    return [given] if callable(given) else list(given)


def check(every: object, dense: object, overhead: float | None, compiled: str) -> None:
    """Raises a UsageError for what cannot be meant."""
    for name, value, least in (("every", every, 1), ("dense", dense, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name} is a whole number, {least} or more, not {value!r}.")
    if overhead is not None and not overhead > 0:
        raise UsageError(f"overhead is a share above 0, or None for any, not {overhead!r}.")
    if compiled not in ("eager", "in-graph"):
        raise UsageError(f"compiled is 'eager' or 'in-graph', not {compiled!r}.")


def described(models: Sequence[nn.Module], optimizers: Sequence[Optimizer], every: int) -> RunInfo:
    """What the run is, for its store."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    parameters = [each for model in models for each in model.parameters()]
    known = [each for each in parameters if not isinstance(each, UninitializedParameter)]
    return RunInfo(
        model=" + ".join(type(each).__name__ for each in models),
        parameters=sum(each.numel() for each in known),
        optimizers=tuple(type(each).__name__ for each in optimizers),
        epsilon=epsilon_of(optimizers[0]) if optimizers else None,
        processes=torch.distributed.get_world_size() if together else 1,
        every=every,
        environment={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "platform": platform.platform(),
            "device": str(parameters[0].device) if parameters else "cpu",
        },
        command=tuple(sys.argv),
    )
