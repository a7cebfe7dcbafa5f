"""What of a model and its tensors this process holds: wrappers, DTensors, their parts."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gradscope.profile.axes import Shard

__all__ = ["bare", "is_distributed", "local", "replicas", "shard_made_local", "shard_of", "whole"]


def is_distributed(model: nn.Module) -> bool:
    """Whether other processes hold other parts of the model, or see other samples."""
    return isinstance(model, DistributedDataParallel) or any(
        _is_sharded(each) for each in model.parameters()
    )


def bare(model: nn.Module) -> nn.Module:
    """The user's module inside the wrappers of DDP, DataParallel and ``torch.compile``."""
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            model = model.module
        elif type(model).__name__ == "OptimizedModule":
            # By name: to import the class takes seconds, where nobody has compiled anything.
            model = model.get_submodule("_orig_mod")
        else:
            return model


def _is_sharded(tensor: Any) -> bool:
    return type(tensor).__name__ == "DTensor"


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: of a DTensor its part, of any other all of it.

    Sums that are still to be added up over processes are added up first.
    """
    if not _is_sharded(tensor):
        return tensor
    if any(placement.is_partial() for placement in tensor.placements):  # type: ignore[attr-defined]
        from torch.distributed.tensor import Replicate

        kept = [Replicate() if each.is_partial() else each for each in tensor.placements]  # type: ignore[attr-defined]
        tensor = tensor.redistribute(placements=kept)  # type: ignore[attr-defined]
    part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the processes that hold parts; each of them has to ask."""
    if not _is_sharded(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full


def shard_of(tensor: Tensor) -> Shard | None:
    """Of which axis of a DTensor this process holds a part; None where it holds all of it."""
    if not _is_sharded(tensor):
        return None
    return _shard(tensor.device_mesh, tensor.placements, tensor.ndim)  # type: ignore[attr-defined]


def _shard(mesh: Any, placements: Any, dimensions: int) -> Shard | None:
    for dim, placement in enumerate(placements):
        if placement.is_shard() and mesh.size(dim) > 1:
            return Shard(placement.dim % dimensions, mesh.get_local_rank(dim), mesh.size(dim))
    return None


def shard_made_local(tensor: Tensor) -> tuple[bool, Shard | None]:
    """Of a plain tensor: whether it was a DTensor a moment ago, and which part of that it is."""
    spec = getattr(tensor.grad_fn, "dtensor_spec", None)
    if spec is None:
        return False, None
    return True, _shard(spec.mesh, spec.placements, tensor.ndim)


def replicas(tensor: Tensor, processes: int) -> int:
    """How many processes hold the same part of a parameter."""
    if not _is_sharded(tensor):
        return processes
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    parts = math.prod(
        mesh.size(dim)
        for dim, placement in enumerate(tensor.placements)  # type: ignore[attr-defined]
        if not placement.is_replicate()
    )
    return processes // parts
