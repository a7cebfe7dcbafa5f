"""From what was saved to what is in it: which tensors are weights, and what optimizers remember.

Everybody saves in a form of their own: a bare state_dict, several of them under all kinds of keys,
with optimizers, schedulers and random states beside them. What is weights is told by how it is
built, a mapping of names to tensors; keys only tell what is certainly none, or an average.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gradscope.checkpoints.checkpoint import Checkpoint, OptimizerState, StoredTensor
from gradscope.checkpoints.contents.found import Found, Path, find
from gradscope.checkpoints.contents.matching import parameters_of
from gradscope.checkpoints.contents.model_names import cleaning
from gradscope.checkpoints.contents.name_tree import ordered, tree_of
from gradscope.checkpoints.contents.optimizers import Model, read_optimizer
from gradscope.checkpoints.contents.tree_matching import Work
from gradscope.checkpoints.pickles.plain import Unread
from gradscope.errors import CheckpointError
from gradscope.records import Skipped
from gradscope.stored import LayerOrder

__all__ = ["checkpoint_of"]

_MODEL_KEYS: Final = frozenset(
    [
        "generator",
        "discriminator",
        "model",
        "model_state",
        "model_state_dict",
        "module",
        "net",
        "net_state_dict",
        "network",
        "params",
        "state_dict",
        "weights",
    ]
)
_AVERAGES: Final = frozenset({"ema", "swa", "averaged", "shadow", "avg"})
_STEPS: Final = ("global_step", "step", "iteration", "iter", "num_updates", "steps")
_LIGHTNING: Final = frozenset({"pytorch-lightning_version", "state_dict"})
_OPTIMIZERS: Final = 10
"""Optimizers that may hold one parameter; more than one where models share it."""

_MOST_SKIPPED: Final = 50


@dataclass(frozen=True)
class _Part:
    """Weights of one model.

    Attributes:
        path: where they lie in the file.
        tensors: by name from there.
        hints: of the model's order, by name; None where it is that of ``tensors``.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    hints: Mapping[str, int] | None


def checkpoint_of(
    tree: Any, name: str, form: str, *, step: int | None = None, skipped: Sequence[Skipped] = ()
) -> Checkpoint:
    """The checkpoint that plain containers are.

    Args:
        tree: as ``made_plain`` makes it.
        name: of the file or folder, for the report.
        form: of it, in words.
        step: where something beside the file tells it.
        skipped: what was left out before.

    Raises:
        CheckpointError: there are no tensors in it.
    """
    if isinstance(tree, StoredTensor):
        tree = {"tensor": tree}
    is_lightning = isinstance(tree, Mapping) and tree.keys() >= _LIGHTNING
    if is_lightning:
        form = "Lightning checkpoint"
    found = find(tree)
    told = [*skipped, *found.skipped]
    parts = _without_averages(_parts(found, (), told), told)
    models: dict[str, Model] = {}
    for part in parts:
        prefix = "".join(f"{key}." for key in part.path) if len(parts) > 1 else ""
        model = _model(part, prefix, is_lightning, told)
        models[".".join(part.path) or "model"] = model
    optimizers: list[OptimizerState] = []
    known: dict[str, int] = {}
    work = Work()
    # Lists that are shared let a small file have optimizers without end.
    most = _OPTIMIZERS * sum(len(part.tensors) for part in parts)
    for path, node in found.optimizers:
        most -= sum(len(group["params"]) for group in node["param_groups"])
        if most < 0 and optimizers:
            told.append(Skipped(".".join(path), "is one of more optimizers than there are weights"))
            continue
        read = read_optimizer(node, models, work)
        if isinstance(read, Unread):
            told.append(Skipped(".".join(path) or "optimizer", read.reason))
        else:
            optimizers.append(read.state)
            known |= {name: place for place, name in enumerate(read.order, start=len(known))}
    weights, order = _in_order(models.values(), known)
    if not weights:
        raise CheckpointError(_why_nothing(name, found, told))
    return Checkpoint(
        name=name,
        form=form,
        weights=weights,
        aliases={name: same for one in models.values() for name, same in one.aliases.items()},
        optimizers=tuple(optimizers),
        step=_step(tree, optimizers) if step is None else step,
        skipped=_at_most(told),
        order=order,
    )


def _parts(found: Found, path: Path, told: list[Skipped]) -> list[_Part]:
    """The models below a place."""
    direct = found.tensors.get(path, {})
    below: dict[str, None] = {}
    for other in found.tensors:
        if len(other) > len(path) and other[: len(path)] == path:
            below[other[len(path)]] = None
    if not below:
        return [_Part(path, direct, found.unordered.get(path))] if direct else []
    beside = {key: tensor for key, tensor in direct.items() if _is_number(tensor)}
    if not _MODEL_KEYS.isdisjoint(below):
        beside = direct
    if direct and len(beside) < len(direct):
        # Layers that lie in mappings of their own beside tensors are all of one model.
        return [_Part(path, found.all_below(path), {} if found.unordered else None)]
    told += [Skipped(".".join((*path, key)), "lies beside the weights") for key in beside]
    parts = [part for key in below for part in _parts(found, (*path, key), told)]
    if len(parts) == 1:
        return parts
    real = [part for part in parts if not all(map(_is_number, part.tensors.values()))]
    for part in parts:
        if part not in real and real:
            told.append(Skipped(".".join(part.path), "holds single numbers only"))
    return real or parts


def _without_averages(parts: list[_Part], told: list[Skipped]) -> list[_Part]:
    """An average of the weights is the same model once more."""
    kept: list[_Part] = []
    for part in parts:
        words = {word for key in part.path for word in key.lower().split("_")}
        model = next((other for other in parts if other is not part and _same(part, other)), None)
        if model is not None and words & _AVERAGES and not _is_average(model):
            told.append(
                Skipped(".".join(part.path), f"averages the weights in {'.'.join(model.path)!r}")
            )
        else:
            kept.append(part)
    return kept


def _is_average(part: _Part) -> bool:
    return bool({word for key in part.path for word in key.lower().split("_")} & _AVERAGES)


def _same(average: _Part, model: _Part) -> bool:
    clean, plain = cleaning(average.tensors)[0], cleaning(model.tensors)[0]
    shapes = {plain(name): tensor.shape for name, tensor in model.tensors.items()}
    own = {clean(name): tensor.shape for name, tensor in average.tensors.items()}
    own.pop("n_averaged", None)
    return bool(own) and own.items() <= shapes.items()


def _model(part: _Part, prefix: str, is_lightning: bool, told: list[Skipped]) -> Model:
    clean, wrappers = cleaning(part.tensors, is_lightning=is_lightning)
    told += [
        Skipped(f"prefix {wrapper}.", f"taken off the names: it is what {origin} puts there")
        for wrapper, origin in wrappers.items()
    ]
    weights: dict[str, StoredTensor] = {}
    aliases: dict[str, str] = {}
    names: dict[int, str] = {}
    for stored, tensor in part.tensors.items():
        name = prefix + clean(stored)
        if id(tensor) in names:
            aliases[name] = names[id(tensor)]
        else:
            names[id(tensor)] = name
            weights[name] = tensor
    hints = part.hints
    if hints is not None:
        hints = {prefix + clean(name): hint for name, hint in hints.items()}
    return Model(weights, aliases, lambda name: prefix + clean(name), hints)


def _in_order(
    models: Iterable[Model], known: Mapping[str, int]
) -> tuple[dict[str, StoredTensor], LayerOrder]:
    """All weights, each model's in its own order, and where that comes from.

    Args:
        models: of the file.
        known: places in the model, as optimizers tell them.
    """
    weights: dict[str, StoredTensor] = {}
    order = LayerOrder.MODEL
    for model in models:
        if model.hints is None:
            weights.update(model.weights)
            continue
        names = ordered(tree_of(model.weights, model.hints), known)
        weights.update((name, model.weights[name]) for name in names)
        if not known.keys() >= parameters_of(model.weights).keys():
            order = LayerOrder.NAMES
        elif order is LayerOrder.MODEL:
            order = LayerOrder.OPTIMIZER
    return weights, order


def _is_number(tensor: StoredTensor) -> bool:
    return all(size == 1 for size in tensor.shape)


def _step(tree: Any, optimizers: Sequence[OptimizerState]) -> int | None:
    """Steps of the optimizer where it counts them: what a file calls step may be batches."""
    steps = [
        kept["step"]
        for optimizer in optimizers
        for kept in optimizer.state.values()
        if isinstance(kept.get("step"), float)
    ]
    largest = max((step for step in steps if isinstance(step, float)), default=0.0)
    told = tree if isinstance(tree, Mapping) else {}
    if _whole(told.get("global_step")) is None and 0 < largest < 2**53:
        return int(largest)
    return next((step for key in _STEPS if (step := _whole(told.get(key))) is not None), None)


_MOST_STEPS = 2**63
"""No training has as many."""


def _whole(value: Any) -> int | None:
    if isinstance(value, StoredTensor) and value.shape in ((), (1,)):
        value = value.load().item()
    return value if type(value) is int and 0 <= value < _MOST_STEPS else None


def _why_nothing(name: str, found: Found, told: Sequence[Skipped]) -> str:
    if found.optimizers:
        return (
            f"{name} holds the state of an optimizer and no weights; give the folder in which "
            "both lie, or a file with both."
        )
    if told:
        return (
            f"{name} holds no tensors that can be read: {told[0].what!r:.80} {told[0].reason}; "
            "save the state_dict of the model."
        )
    return f"{name} holds no tensors; save the state_dict of the model."


def _at_most(told: Sequence[Skipped]) -> tuple[Skipped, ...]:
    if len(told) <= _MOST_SKIPPED:
        return tuple(told)
    more = Skipped(f"{len(told) - _MOST_SKIPPED:,} more", "not listed")
    return (*told[:_MOST_SKIPPED], more)
