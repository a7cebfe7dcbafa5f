"""Tells which parameter an optimizer means by its first, its second, its third.

An optimizer counts its parameters through its groups, each in the order in which the user gave
them: mostly the model's, often without those that are frozen, often split by weight decay. Here
each group is laid into the model's order in every way that its shapes allow; what comes out the
same in all of them is certain, and nothing else is matched.

safetensors sorts by name, so that a model's order is lost. Of parameters of one shape, the order is
then known only where they are the same one of layers that are numbered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from gradscope.checkpoints.checkpoint import StoredTensor

__all__ = ["Candidate", "Matching", "Shape", "match", "parameters_of"]

Shape = tuple[int, ...] | None
"""Of what the optimizer keeps for a parameter; None where it keeps nothing."""

_BUFFERS: Final = frozenset(
    [
        "inv_freq",
        "masked_bias",
        "n_averaged",
        "num_batches_tracked",
        "original_inv_freq",
        "position_ids",
        "relative_position_index",
        "running_mean",
        "running_var",
    ]
)
"""Last parts of names that are buffers, which no optimizer has."""

_ROUNDS: Final = 20

_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
"""A part of a name that is a number, of a layer among its like."""


@dataclass(frozen=True)
class Matching:
    """Names by place in the optimizer, and how they were found, in a sentence."""

    names: Mapping[int, str]
    sentence: str


@dataclass(frozen=True)
class Candidate:
    """A model that the optimizer could be of.

    Attributes:
        parameters: shapes by name.
        is_ordered: whether they are in the model's order.
    """

    parameters: Mapping[str, tuple[int, ...]]
    is_ordered: bool


def parameters_of(weights: Mapping[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of those that may be parameters, in their order."""
    return {
        name: tensor.shape
        for name, tensor in weights.items()
        if tensor.dtype.is_floating_point and name.rpartition(".")[2] not in _BUFFERS
    }


def match(groups: Sequence[Sequence[Shape]], models: Mapping[str, Candidate]) -> Matching:
    """Names of the parameters of an optimizer.

    Args:
        groups: shapes by group, in the optimizer's order.
        models: of the file, by what they are called in it.
    """
    candidates = dict(models)
    if len(models) > 1:
        whole = {name: shape for one in models.values() for name, shape in one.parameters.items()}
        ordered = all(one.is_ordered for one in models.values())
        candidates["all of the file"] = Candidate(whole, ordered)
    count = sum(map(len, groups))
    found = {
        label: _laid(groups, one.parameters)
        if one.is_ordered
        else _numbered(groups, one.parameters)
        for label, one in candidates.items()
    }
    # A model that has just these parameters comes before one that has more of them.
    fitting = [
        label
        for label, names in found.items()
        if names is not None and len(candidates[label].parameters) == count
    ] or [label for label, names in found.items() if names is not None]
    if len(fitting) > 1:
        told = ", ".join(repr(label) for label in fitting)
        return Matching({}, f"none of {count}: it could belong to each of {told}")
    if not fitting:
        if len(models) != 1:
            return Matching({}, f"none of {count}: its shapes are those of none of the models")
        names = _by_rare_shape(groups, next(iter(models.values())).parameters)
        return Matching(names, _told(len(names), count, "by a shape that only one parameter has"))
    names = found[fitting[0]] or {}
    ordered = candidates[fitting[0]].is_ordered
    how = "by order and shape" if ordered else "by shape and number, as the file is sorted by name"
    if len(models) > 1:
        how += f", in {fitting[0]!r}"
    return Matching(names, _told(len(names), count, how))


def _told(matched: int, count: int, how: str) -> str:
    if matched == count:
        return f"all {count} {how}"
    return f"{matched} of {count} {how}; the others could be several parameters"


def _laid(
    groups: Sequence[Sequence[Shape]], parameters: Mapping[str, tuple[int, ...]]
) -> dict[int, str] | None:
    """What is the same in every way to lay the groups into the model; None without any way."""
    starts = [0, *_sums(map(len, groups))]
    taken: dict[str, int] = {}
    certain: dict[int, str] = {}
    for _ in range(_ROUNDS):
        before = len(certain)
        for number, group in enumerate(groups):
            free = [
                (name, shape)
                for name, shape in parameters.items()
                if taken.get(name, number) == number
            ]
            first = _leftmost(group, free)
            last = _leftmost(group[::-1], free[::-1])
            if first is None or last is None:
                return None
            for place, (left, right) in enumerate(zip(first, reversed(last), strict=True)):
                if left == len(free) - 1 - right:
                    name = free[left][0]
                    certain[starts[number] + place] = name
                    taken[name] = number
        if len(groups) == 1 or len(certain) == before:
            break
    return certain


def _leftmost(
    group: Sequence[Shape], parameters: Sequence[tuple[str, tuple[int, ...]]]
) -> list[int] | None:
    """The first place of each of the group, in order; None where there is none for one."""
    places: list[int] = []
    position = 0
    for shape in group:
        while position < len(parameters) and shape not in (None, parameters[position][1]):
            position += 1
        if position == len(parameters):
            return None
        places.append(position)
        position += 1
    return places


def _numbered(
    groups: Sequence[Sequence[Shape]], parameters: Mapping[str, tuple[int, ...]]
) -> dict[int, str] | None:
    """Where the model's order is not known: parameters of one shape that differ by numbers alone.

    Layers of one kind are numbered as they are ordered. None where there are too few of a shape.
    """
    places: dict[Shape, list[int]] = {}
    of_group: dict[int, int] = {}
    for number, group in enumerate(groups):
        for shape in group:
            places.setdefault(shape, []).append(len(of_group))
            of_group[len(of_group)] = number
    names: dict[tuple[int, ...], list[str]] = {}
    for name, own in parameters.items():
        names.setdefault(own, []).append(name)
    certain: dict[int, str] = {}
    for shape, where in places.items():
        if shape is None:
            continue
        alike = names.get(shape, [])
        if len(alike) < len(where):
            return None
        without_numbers = {_NUMBER.sub("#", name) for name in alike}
        one_group = len({of_group[place] for place in where}) == 1
        if len(alike) == len(where) and len(without_numbers) == 1 and one_group:
            ordered = sorted(alike, key=lambda name: [int(n[:18]) for n in _NUMBER.findall(name)])
            certain.update(zip(where, ordered, strict=True))
    return certain


def _by_rare_shape(
    groups: Sequence[Sequence[Shape]], parameters: Mapping[str, tuple[int, ...]]
) -> dict[int, str]:
    """The order is not the model's: a shape tells where one parameter alone has it."""
    shapes = list(chain.from_iterable(groups))
    in_optimizer, in_model = Counter(shapes), Counter(parameters.values())
    names = {shape: name for name, shape in parameters.items()}
    return {
        place: names[shape]
        for place, shape in enumerate(shapes)
        if shape is not None and in_optimizer[shape] == 1 and in_model[shape] == 1
    }


def _sums(lengths: Iterator[int]) -> Iterator[int]:
    total = 0
    for length in lengths:
        total += length
        yield total
