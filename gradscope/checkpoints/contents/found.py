"""Goes through what was saved, and finds tensors and the states of optimizers in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gradscope.checkpoints.checkpoint import StoredTensor
from gradscope.checkpoints.contents.optimizers import is_optimizer, unflattened
from gradscope.checkpoints.pickles.plain import Unordered, Unread
from gradscope.records import Skipped

__all__ = ["Found", "Path", "find"]

Path = tuple[str, ...]
"""Keys on the way to something."""

_NO_WEIGHTS: Final = frozenset(
    [
        "amp",
        "amp_scaler",
        "args",
        "callbacks",
        "config",
        "cuda_rng_state",
        "fit_loop",
        "grad_scaler",
        "history",
        "hparams",
        "hyper_parameters",
        "loops",
        "lr_scheduler",
        "lr_scheduler_state_dict",
        "lr_schedulers",
        "metrics",
        "numpy_rng_state",
        "python_rng_state",
        "random_state",
        "random_states",
        "rng",
        "rng_state",
        "rng_states",
        "scaler",
        "scheduler",
        "scheduler_state_dict",
        "schedulers",
        "torch_rng_state",
    ]
)
"""Keys under which no weights lie, although tensors may."""


@dataclass(frozen=True)
class Found:
    """What lies where.

    Attributes:
        tensors: by name, of each mapping or list that holds tensors itself.
        optimizers: state_dicts, with where they were.
        unordered: places of tensors that are not in the model's order, with hints of it by name.
        skipped: what else was found.
    """

    tensors: dict[Path, dict[str, StoredTensor]] = field(default_factory=dict)
    optimizers: list[tuple[Path, Mapping[Any, Any]]] = field(default_factory=list)
    unordered: dict[Path, Mapping[str, int]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def all_below(self, path: Path) -> dict[str, StoredTensor]:
        """All tensors from there on, by the keys on the way joined by dots."""
        return {
            ".".join((*other[len(path) :], name)): tensor
            for other, tensors in self.tensors.items()
            if other[: len(path)] == path
            for name, tensor in tensors.items()
        }


def find(tree: Any) -> Found:
    """All tensors of plain containers, each container looked at once."""
    found = Found()
    _look(tree, (), found, set(), False)
    return found


def _look(node: Any, path: Path, found: Found, seen: set[int], in_optimizer: bool) -> None:
    if not isinstance(node, Mapping | list) or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, Mapping):
        flat = None if is_optimizer(node) else unflattened(node)
        if flat is not None or is_optimizer(node):
            found.optimizers.append((path, node if flat is None else flat))
            return
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    tensors: dict[str, StoredTensor] = {}
    inner: list[tuple[str, Any]] = []
    for key, value in items:
        if isinstance(value, StoredTensor):
            tensors[str(key)] = value
        elif isinstance(value, Unread) and value.reason:
            found.skipped.append(Skipped(".".join((*path, str(key))), value.reason))
        elif isinstance(value, Mapping | list):
            inner.append((str(key), value))
    none = in_optimizer or not _NO_WEIGHTS.isdisjoint(part.lower() for part in path)
    if tensors and none:
        what = "the state of an optimizer that is not known" if in_optimizer else "no weights"
        found.skipped.append(Skipped(".".join(path), f"holds {what}"))
    elif tensors:
        loose = {name for name in tensors if name.lower() in _NO_WEIGHTS}
        found.skipped.extend(
            Skipped(".".join((*path, name)), "is no weight") for name in tensors if name in loose
        )
        kept = {name: tensor for name, tensor in tensors.items() if name not in loose}
        if kept:
            found.tensors[path] = kept
            if isinstance(node, Unordered):
                found.unordered[path] = node.hints
    if tensors and none:
        return
    for key, value in inner:
        optimizer = in_optimizer or "optim" in key.lower()
        _look(value, (*path, key), found, seen, optimizer)
