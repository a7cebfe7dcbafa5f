"""The modules that names of tensors tell of, and an order for them.

``safetensors`` sorts tensors by type and name, so that the model's order is lost. What names still
tell is the tree of modules, of which each keeps its own parameters and then its children together,
and numbers: layer 2 comes before layer 10. What is left open is how siblings of different names
follow each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gradscope.checkpoints.contents.usual_names import in_chain, natural, own_place, usual_place

__all__ = ["Node", "ordered", "tree_of"]

_DEPTH: Final = 64
"""Modules in modules; a name with more points keeps the rest of them in its last part."""

_UNKNOWN: Final = 1 << 62


@dataclass(frozen=True, eq=False)
class Node:
    """A module.

    Attributes:
        own: chains of its own tensors, by their whole names. Those of a chain stand in the order
            that is given; how chains lie in each other is not known.
        children: chains of the modules in it.
        usual: tensors and children, in the order that is likely; tensors come first.
    """

    own: tuple[tuple[str, ...], ...]
    children: tuple[tuple[Node, ...], ...]
    usual: tuple[str | Node, ...]


@dataclass
class _Module:
    """One that still grows."""

    own: dict[str, str]
    children: dict[str, _Module]
    first: int = _UNKNOWN


def tree_of(names: Iterable[str], hints: Mapping[str, int] | None = None) -> Node:
    """The outermost module.

    Args:
        names: of tensors.
        hints: of some of them, what rises along the model, such as the number of the shard.
    """
    root = _Module({}, {})
    for name in names:
        hint = (hints or {}).get(name, _UNKNOWN)
        module = root
        *parts, last = name.split(".", _DEPTH)
        for part in parts:
            module = module.children.setdefault(part, _Module({}, {}))
            module.first = min(module.first, hint)
        module.own[last] = name
    return _node(root)


def _node(module: _Module) -> Node:
    if not module.children and len(module.own) == 1:  # most of the time, where there are many
        (name,) = module.own.values()
        return Node(((name,),), (), (name,))
    own = sorted(module.own, key=lambda part: (own_place(part), part))
    beside = frozenset(module.children)

    def place(part: str) -> tuple[object, ...]:
        usual, name, behind = usual_place(part, beside)
        return usual, module.children[part].first, name, behind, part

    children = sorted(module.children, key=place)
    nodes = {part: _node(module.children[part]) for part in children}
    # By number within each chain, whatever the hints say.
    chains = {kind: sorted(chain, key=natural) for kind, chain in _chains(children).items()}
    rising = {kind: iter(chain) for kind, chain in chains.items()}
    return Node(
        own=tuple(tuple(module.own[part] for part in chain) for chain in _chains(own).values()),
        children=tuple(tuple(nodes[part] for part in chain) for chain in chains.values()),
        usual=(
            *(module.own[part] for part in own),
            *(nodes[next(rising[in_chain(part)])] for part in children),
        ),
    )


def _chains(parts: Sequence[str]) -> dict[str, list[str]]:
    chains: dict[str, list[str]] = {}
    for part in parts:
        chains.setdefault(in_chain(part), []).append(part)
    return chains


def ordered(node: Node, known: Mapping[str, int] | None = None) -> list[str]:
    """All names of a tree, in the order that is likely.

    Args:
        node: of the tree.
        known: places in the model, of some or all names. Siblings of which one is known follow it
            and keep to the places that they would have without.
    """
    return _ordered(node, known or {})[0]


def _ordered(node: Node, known: Mapping[str, int]) -> tuple[list[str], int]:
    parts: list[tuple[list[str], int]] = [
        ([each], known.get(each, _UNKNOWN)) if isinstance(each, str) else _ordered(each, known)
        for each in node.usual
    ]
    own = sum(isinstance(each, str) for each in node.usual)
    names: list[str] = []
    for some in (parts[:own], parts[own:]):
        places = iter(sorted((part for part in some if part[1] != _UNKNOWN), key=lambda p: p[1]))
        for part in some:
            names += (part if part[1] == _UNKNOWN else next(places))[0]
    return names, min((place for _, place in parts), default=_UNKNOWN)
