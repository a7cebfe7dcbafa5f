"""Lays an optimizer's parameters into a model of which only the names are known, not the order.

What an optimizer counts comes in the model's order, of which the tree of modules leaves little open
(``name_tree``); shapes settle most of that. All orders of the tree are followed side by side, one
parameter at a time, for as long as the shapes agree: what is the same in all that reach the end is
certain.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gradscope.checkpoints.contents.name_tree import Node

__all__ = ["Laid", "Work", "lay"]

_MOST_STATES: Final = 4096
_MOST_CHAINS: Final = 256
"""Of parameters or modules in one module."""

Token = Hashable | None
"""What a parameter is known by, its shape or its name; None where nothing is known of it."""

Frame = tuple[Node, tuple[int, ...], tuple[int, ...]]
"""A module that is being gone through: how many of each of its chains are done."""

State = tuple[tuple[Frame, ...], tuple[int, ...]]
"""Modules from the outermost inward, and how many of each group are done."""


@dataclass
class Work:
    """How many parameters may still be tried, in all searches of a file together: seconds."""

    left: int = 300_000


@dataclass(frozen=True)
class Laid:
    """How an optimizer's parameters lie in the tree.

    Attributes:
        certain: names by place, counted through the groups, of those that are the same in every
            order that fits.
        order: all names, in one order that fits: of several the one that is likelier by names.
    """

    certain: dict[int, str]
    order: tuple[str, ...]


@dataclass(frozen=True)
class _Edge:
    following: State
    place: int
    name: str


def lay(
    groups: Sequence[Sequence[Token]],
    tree: Node,
    count: int,
    token: Callable[[str], Token],
    work: Work,
) -> Laid | None:
    """How groups of tokens lie in a tree whose names are all in them.

    Args:
        groups: tokens in the optimizer's order.
        tree: of parameters.
        count: of parameters in the tree.
        token: of a parameter, by its name.
        work: is used up.

    Returns:
        None where there is no way, or where there are too many to follow.
    """
    if sum(map(len, groups)) != count or not _is_narrow(tree):
        return None
    starts = [sum(map(len, groups[:number])) for number in range(len(groups))]
    first: State = (_entered(tree), (0,) * len(groups))
    levels: list[dict[State, list[_Edge]]] = []
    states = {first}
    for _ in range(count):
        level: dict[State, list[_Edge]] = {}
        for state in states:
            stack, done = state
            edges = level[state] = []
            for name, following in _choices(stack):
                work.left -= 1
                for number, group in enumerate(groups):
                    at = done[number]
                    if at < len(group) and group[at] in (None, token(name)):
                        after = (*done[:number], at + 1, *done[number + 1 :])
                        edges.append(_Edge((following, after), starts[number] + at, name))
            if work.left < 0:
                return None
        states = {edge.following for edges in level.values() for edge in edges}
        if not states or len(states) > _MOST_STATES:
            return None
        levels.append(level)
    names: dict[int, set[str]] = {}
    reach = states
    for level in reversed(levels):
        for state, edges in level.items():
            level[state] = [edge for edge in edges if edge.following in reach]
            for edge in level[state]:
                names.setdefault(edge.place, set()).add(edge.name)
        reach = {state for state, edges in level.items() if edges}
    certain = {place: next(iter(some)) for place, some in names.items() if len(some) == 1}
    return Laid(certain, tuple(_likeliest(first, levels)))


def _likeliest(state: State, levels: Sequence[dict[State, list[_Edge]]]) -> Iterator[str]:
    """The names on the way of which each step is the first that was offered."""
    for level in levels:
        edge = level[state][0]
        yield edge.name
        state = edge.following


def _is_narrow(node: Node) -> bool:
    return max(len(node.own), len(node.children)) <= _MOST_CHAINS and all(
        _is_narrow(child) for chain in node.children for child in chain
    )


def _entered(node: Node) -> tuple[Frame, ...]:
    return ((node, (0,) * len(node.own), (0,) * len(node.children)),)


def _choices(stack: tuple[Frame, ...]) -> Iterator[tuple[str, tuple[Frame, ...]]]:
    """Parameters that may come next, likelier ones first, and what is left then."""
    if not stack:
        return
    node, own, children = stack[-1]
    outer = stack[:-1]
    found = False
    for number, chain in enumerate(node.own):
        if own[number] < len(chain):
            found = True
            yield chain[own[number]], _left((*outer, (node, _next(own, number), children)))
    if found:
        return
    for number, nodes in enumerate(node.children):
        if children[number] < len(nodes):
            entered = _entered(nodes[children[number]])
            yield from _choices((*outer, (node, own, _next(children, number)), *entered))


def _next(done: tuple[int, ...], number: int) -> tuple[int, ...]:
    return (*done[:number], done[number] + 1, *done[number + 1 :])


def _left(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Without the modules that are done, so that ways that meet are told to be one."""
    while stack and _is_done(stack[-1]):
        stack = stack[:-1]
    return stack


def _is_done(frame: Frame) -> bool:
    node, own, children = frame
    return all(
        done == len(chain)
        for done, chain in zip((*own, *children), (*node.own, *node.children), strict=True)
    )
