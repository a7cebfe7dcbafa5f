"""Reads the state_dict of an optimizer: what it remembers of each parameter, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gradscope.checkpoints.checkpoint import OptimizerState, StoredTensor
from gradscope.checkpoints.contents.matching import Candidate, Matching, Shape, match, parameters_of
from gradscope.checkpoints.contents.name_tree import tree_of
from gradscope.checkpoints.contents.optimizer_kinds import NUMBERS, SLOTS, kind_of, why_unknown
from gradscope.checkpoints.contents.tree_matching import Work, lay
from gradscope.checkpoints.pickles.plain import Unread

__all__ = ["Model", "Read", "is_optimizer", "read_optimizer", "unflattened"]


@dataclass(frozen=True)
class Model:
    """What optimizers are matched with.

    Attributes:
        weights: by name.
        aliases: other names of the same.
        cleaned: what a name becomes, once what wrappers put before it is taken off.
        hints: of the model's order, by name; None where it is that of ``weights``.
    """

    weights: Mapping[str, StoredTensor]
    aliases: Mapping[str, str]
    cleaned: Callable[[str], str]
    hints: Mapping[str, int] | None = None

    @property
    def is_ordered(self) -> bool:
        """Whether ``weights`` are in the model's order."""
        return self.hints is None

    def named(self, name: object) -> str | None:
        """The name under which a parameter stands in ``weights``."""
        if not isinstance(name, str):
            return None
        for known in (name, self.cleaned(name)):
            known = self.aliases.get(known, known)
            if known in self.weights:
                return known
        return None


@dataclass(frozen=True)
class Read:
    """What was read of an optimizer.

    Attributes:
        state: what it remembers.
        order: names of parameters as their model has them, where its order was not known before.
    """

    state: OptimizerState
    order: tuple[str, ...]


def is_optimizer(node: Mapping[Any, Any]) -> bool:
    """Whether it is built as the state_dict of a torch.optim.Optimizer."""
    state, groups = node.get("state"), node.get("param_groups")
    return (
        isinstance(state, Mapping)
        and isinstance(groups, list)
        and all(
            isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups
        )
    )


def read_optimizer(
    node: Mapping[Any, Any], models: Mapping[str, Model], work: Work
) -> Read | Unread:
    """What an optimizer remembers; Unread with the reason where it is none that is known.

    Args:
        node: what ``is_optimizer`` recognises.
        models: of the file, by what they are called in it.
        work: what may still be tried to match them; is used up.
    """
    groups: Sequence[Mapping[str, Any]] = node["param_groups"]
    state = {key: slots for key, slots in node["state"].items() if isinstance(slots, Mapping)}
    slots = {
        str(slot)
        for own in state.values()
        for slot, value in own.items()
        if isinstance(value, StoredTensor | int | float)
    }
    kind = kind_of(groups, slots) if groups else ""
    if not kind:
        return Unread(why_unknown(groups, slots))
    keys = [[_key(key) for key in group["params"]] for group in groups]
    matching = _matched(groups, keys, state, models, work)
    settings: dict[str, dict[str, Any]] = {}
    kept: dict[str, dict[str, StoredTensor | float]] = {}
    place = 0
    for group, members in zip(groups, keys, strict=True):
        common = _settings(group)
        for key in members:
            name = matching.names.get(place)
            place += 1
            if name is None:
                continue
            settings[name] = common
            if key in state:
                kept[name] = _kept(state[key])
    return Read(OptimizerState(kind, settings, kept, matching.sentence), matching.order)


def unflattened(node: Mapping[Any, Any]) -> dict[str, Any] | None:
    """A state_dict whose keys are paths, such as ``state.layer.weight.exp_avg``, as it was.

    torch.distributed.checkpoint flattens so. None where it is not one.
    """
    state: dict[str, dict[str, Any]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for key, value in node.items():
        if not isinstance(key, str):
            return None
        root, _, rest = key.partition(".")
        name, _, last = rest.rpartition(".")
        if root == "state" and name and last in SLOTS:
            state.setdefault(name, {})[last] = value
        elif root == "param_groups" and name:
            settings.setdefault(name, {})[last] = value
        else:
            return None
    if not settings:
        return None
    return {
        "state": state,
        "param_groups": [{**group, "params": [name]} for name, group in settings.items()],
    }


def _key(key: Any) -> Any:
    return key if isinstance(key, str | int) else None


def _matched(
    groups: Sequence[Mapping[str, Any]],
    keys: Sequence[Sequence[Any]],
    state: Mapping[Any, Mapping[str, Any]],
    models: Mapping[str, Model],
    work: Work,
) -> Matching:
    if any(isinstance(key, str) for members in keys for key in members):
        return _by_name(keys, "under which its state is kept", models, work)
    written: list[Sequence[Any]] = []
    for group, members in zip(groups, keys, strict=True):
        names = group.get("param_names")
        if not isinstance(names, list) or len(names) != len(members):
            break
        written.append(names)
    else:
        return _by_name(written, "in its groups", models, work)
    shapes = [[_shape(state.get(key, {})) for key in members] for members in keys]
    candidates = {
        label: Candidate(parameters_of(model.weights), model.is_ordered)
        for label, model in models.items()
    }
    return match(shapes, candidates, work)


def _by_name(
    groups: Sequence[Sequence[Any]], where: str, models: Mapping[str, Model], work: Work
) -> Matching:
    names = [name for group in groups for name in group]
    found: dict[int, str] = {}
    for place, name in enumerate(names):
        known = {model.named(name) for model in models.values()} - {None}
        if len(known) == 1:
            found[place] = str(known.pop())
    order = (
        () if all(model.is_ordered for model in models.values()) else _order(groups, found, work)
    )
    if len(found) == len(names):
        return Matching(found, f"all {len(names)} by the names {where}", order)
    return Matching(
        found,
        f"{len(found)} of {len(names)} by the names {where}; the others are not in the weights",
        order,
    )


def _order(
    groups: Sequence[Sequence[Any]], found: Mapping[int, str], work: Work
) -> tuple[str, ...]:
    """Names as the model has them; none where the groups cannot be laid into it."""
    if work.left <= 0:
        return ()
    work.left -= len(found)
    places = iter(range(sum(map(len, groups))))
    named = [[found[at] for at in islice(places, len(group)) if at in found] for group in groups]
    laid = lay(named, tree_of(found.values()), len(found), str, work)
    return () if laid is None else laid.order


def _shape(slots: Mapping[str, Any]) -> Shape:
    """Of the parameter that these were kept for."""
    rows, columns = slots.get("row_var"), slots.get("col_var")
    if isinstance(rows, StoredTensor) and isinstance(columns, StoredTensor):
        return (*rows.shape[:-1], *columns.shape[-1:])
    for slot, value in slots.items():
        if slot not in NUMBERS and isinstance(value, StoredTensor):
            return value.shape
    return None


def _kept(slots: Mapping[str, Any]) -> dict[str, StoredTensor | float]:
    kept: dict[str, StoredTensor | float] = {}
    for slot, value in slots.items():
        if isinstance(value, StoredTensor):
            kept[slot] = _number(value) if slot in NUMBERS and value.shape in ((), (1,)) else value
        elif isinstance(value, int | float):
            with suppress(OverflowError):
                kept[slot] = float(value)
    return kept


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _setting(value)
        for key, value in group.items()
        if key not in ("params", "param_names") and not isinstance(value, Unread)
    }


def _setting(value: Any) -> Any:
    if isinstance(value, StoredTensor):
        return _number(value) if value.shape in ((), (1,)) else None
    if isinstance(value, list):
        return tuple(item for item in value if isinstance(item, int | float | str))
    return value if isinstance(value, int | float | str) else None


def _number(tensor: StoredTensor) -> float:
    return float(tensor.load().item())
