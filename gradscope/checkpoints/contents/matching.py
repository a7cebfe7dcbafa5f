"""Tells which parameter an optimizer means by its first, its second, its third.

An optimizer counts its parameters through its groups, each in the order in which the user gave
them: mostly the model's, often without those that are frozen, often split by weight decay. Here
each group is laid into the model's order in every way that its shapes allow; what comes out the
same in all of them is certain, and nothing else is matched.

safetensors sorts by name, so that a model's order is lost. The tree of modules then leaves some
orders, of which shapes rule out most (``tree_matching``). Where the optimizer has not all of the
model's parameters, those of one shape are told only where they are the same one of layers that are
numbered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from gradscope.checkpoints.checkpoint import StoredTensor
from gradscope.checkpoints.contents.name_tree import tree_of
from gradscope.checkpoints.contents.tree_matching import Work, lay
from gradscope.checkpoints.contents.usual_names import is_buffer

__all__ = ["Candidate", "Matching", "Shape", "match", "parameters_of"]

Shape = tuple[int, ...] | None
"""Of what the optimizer keeps for a parameter; None where it keeps nothing."""

_ROUNDS: Final = 20

_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
"""A part of a name that is a number, of a layer among its like."""


@dataclass(frozen=True)
class Matching:
    """Which parameter is which.

    Attributes:
        names: by place in the optimizer, counted through its groups.
        sentence: how they were found.
        order: names of parameters as the model has them, where its order was not known before.
    """

    names: Mapping[int, str]
    sentence: str
    order: tuple[str, ...] = ()


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
        if tensor.dtype.is_floating_point and not is_buffer(name)
    }


def match(
    groups: Sequence[Sequence[Shape]], models: Mapping[str, Candidate], work: Work
) -> Matching:
    """Names of the parameters of an optimizer.

    Args:
        groups: shapes by group, in the optimizer's order.
        models: of the file, by what they are called in it.
        work: what may still be tried; is used up.
    """
    candidates = dict(models)
    if len(models) > 1:
        whole = {name: shape for one in models.values() for name, shape in one.parameters.items()}
        ordered = all(one.is_ordered for one in models.values())
        candidates["all of the file"] = Candidate(whole, ordered)
    count = sum(map(len, groups))
    tried = {label: _fitted(groups, one, work) for label, one in candidates.items()}
    found = {label: fit for label, fit in tried.items() if fit is not None}
    # A model that has just these parameters comes before one that has more of them.
    fitting = [label for label in found if len(candidates[label].parameters) == count]
    fitting = fitting or list(found)
    if len(fitting) > 1:
        told = ", ".join(repr(label) for label in fitting)
        return Matching({}, f"none of {count}: it could belong to each of {told}")
    if not fitting:
        if len(models) != 1:
            return Matching({}, f"none of {count}: its shapes are those of none of the models")
        names = _by_rare_shape(groups, next(iter(models.values())).parameters)
        return Matching(names, _told(len(names), count, "by a shape that only one parameter has"))
    fit = found[fitting[0]]
    how = fit.how if len(models) == 1 else f"{fit.how}, in {fitting[0]!r}"
    return Matching(fit.names, _told(len(fit.names), count, how), fit.order)


@dataclass(frozen=True)
class _Fit:
    """Names by place in one model, as in ``Matching``, and how they were found."""

    names: dict[int, str]
    how: str
    order: tuple[str, ...] = ()


def _fitted(groups: Sequence[Sequence[Shape]], model: Candidate, work: Work) -> _Fit | None:
    """None where it cannot be of the model."""
    if model.is_ordered:
        names = _laid(groups, model.parameters)
        return None if names is None else _Fit(names, "by order and shape")
    parameters = model.parameters
    if sum(map(len, groups)) == len(parameters) and work.left > 0:
        work.left -= len(parameters)
        laid = lay(groups, tree_of(parameters), len(parameters), parameters.__getitem__, work)
        if laid is not None:
            return _Fit(laid.certain, "by shape and the modules' names", laid.order)
    names = _numbered(groups, parameters)
    if names is None:
        return None
    # Places of two groups do not tell how their parameters lie in each other.
    order = tuple(names[place] for place in sorted(names)) if len(groups) == 1 else ()
    return _Fit(names, "by shape and number, as the file is sorted by name", order)


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
