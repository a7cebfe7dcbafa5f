"""Which sites the batch's inputs reach, found by giving the model another batch."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.zoo.reference.patching import capturing

Step = Callable[[nn.Module, Any], Tensor]


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def fed_by_the_batch(model: nn.Module, step: Step, batches: Sequence[Any]) -> set[str]:
    """The sites whose output is another one where the batch is another one."""
    seen: list[dict[str, Tensor]] = []
    for batch in (batches[0], batches[1] if len(batches) > 1 else altered(batches[0])):
        seed_all(0)
        copied = copy.deepcopy(model).train()
        with capturing(copied) as capture:
            step(copied, batch)
        seen.append({one.name: one.y for one in capture.sites})
    first, second = seen
    return {
        name for name, y in first.items() if name not in second or not same(y, second[name])
    } | (second.keys() - first.keys())


def altered(batch: Any) -> Any:
    """A batch like it with other numbers."""
    if isinstance(batch, Tensor):
        return batch * 1.5 + 0.1 if batch.is_floating_point() else batch.flip(0)
    if isinstance(batch, Mapping):
        return {key: altered(value) for key, value in batch.items()}
    return type(batch)(altered(value) for value in batch)


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
