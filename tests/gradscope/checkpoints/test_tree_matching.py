"""Optimizers laid into models whose order is lost, against all orders that there are."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from itertools import permutations

from gradscope.checkpoints.contents.name_tree import Node, tree_of
from gradscope.checkpoints.contents.tree_matching import Work, lay

Shapes = dict[str, tuple[int, ...]]


def orders(node: Node) -> Iterator[list[str]]:
    """Every order that a tree allows, by brute force."""

    def in_turn(chains: Sequence[Sequence[object]]) -> Iterator[list[object]]:
        items = [(number, at) for number, chain in enumerate(chains) for at in range(len(chain))]
        for some in permutations(items):
            if all(
                some.index((n, at)) < some.index((n, at + 1))
                for n, at in items
                if (n, at + 1) in items
            ):
                yield [chains[number][at] for number, at in some]

    def joined(nodes: Sequence[object]) -> Iterator[list[str]]:
        if not nodes:
            yield []
            return
        first, *rest = nodes
        assert isinstance(first, Node)
        for one in orders(first):
            for more in joined(rest):
                yield [*one, *more]

    for own in in_turn(node.own):
        for children in in_turn(node.children):
            for below in joined(children):
                yield [*map(str, own), *below]


def merged(
    order: Sequence[str], groups: Sequence[Sequence[object]], shapes: Shapes
) -> Iterator[list[str]]:
    """Every way to deal an order out to the groups, as names by place."""
    if not order:
        if not any(groups):
            yield []
        return
    first, *rest = order
    for number, group in enumerate(groups):
        if group and group[0] in (None, shapes[first]):
            after = [[*g[1:]] if n == number else [*g] for n, g in enumerate(groups)]
            for more in merged(rest, after, shapes):
                yield [f"{number}:{first}", *more]


def model(draw: random.Random) -> tuple[list[str], Shapes]:
    """The names of a small model in its own order, and shapes."""
    names: list[str] = []

    def grow(prefix: str, depth: int) -> None:
        own = draw.choice([["weight", "bias"], ["weight"], ["scale"], []])
        children = draw.sample(["a", "b", "0", "1", "conv1", "conv2"], draw.randint(0, 3))
        # Numbered ones come in their order.
        for stem in ("01", ("conv1", "conv2")):
            both = [part for part in children if part in stem]
            if len(both) == 2 and children.index(stem[0]) > children.index(stem[1]):
                at, other = children.index(stem[0]), children.index(stem[1])
                children[at], children[other] = children[other], children[at]
        if depth == 2 or not children:
            own = own or ["weight"]
            children = []
        names.extend(prefix + part for part in own)
        for part in children:
            grow(f"{prefix}{part}.", depth + 1)

    grow("", 0)
    shapes = {
        name: ((3,) if "bias" in name else draw.choice([(3,), (3, 2), (2, 3)])) for name in names
    }
    return names, shapes


def test_what_is_certain_is_what_all_orders_have_in_common() -> None:
    draw = random.Random(0)
    certain = ambiguous = 0
    for _ in range(800):
        names, shapes = model(draw)
        if len(names) > 7:
            continue
        if draw.random() < 0.5:
            groups: list[list[object]] = [[shapes[name] for name in names]]
            own = [names]
        else:
            own = [
                [n for n in names if len(shapes[n]) > 1],
                [n for n in names if len(shapes[n]) < 2],
            ]
            groups = [[shapes[name] for name in group] for group in own]
        if draw.random() < 0.2 and groups[0]:
            groups[0][draw.randrange(len(groups[0]))] = None
        tree = tree_of(sorted(names))
        laid = lay(groups, tree, len(names), shapes.__getitem__, Work())
        assert laid is not None
        found: dict[int, set[str]] = {}
        ways = [way for order in orders(tree) for way in merged(order, groups, shapes)]
        for way in ways:
            for number in range(len(groups)):
                start = sum(map(len, groups[:number]))
                mine = [part[2:] for part in way if part.startswith(f"{number}:")]
                for at, name in enumerate(mine, start=start):
                    found.setdefault(at, set()).add(name)
        assert laid.certain == {
            at: next(iter(some)) for at, some in found.items() if len(some) == 1
        }
        assert [*laid.order] in [[part[2:] for part in way] for way in ways]
        truth = [name for group in own for name in group]
        assert all(truth[at] == name for at, name in laid.certain.items())
        certain += len(laid.certain)
        ambiguous += len(names) - len(laid.certain)
    # Otherwise the test would prove little.
    assert certain > 300
    assert ambiguous > 100


def test_what_does_not_fit() -> None:
    shapes: Shapes = {"a.weight": (2, 3), "a.bias": (2,), "b.weight": (4, 2)}
    tree = tree_of(shapes)

    def laid(*groups: list[tuple[int, ...]]) -> bool:
        return lay(groups, tree, 3, shapes.__getitem__, Work()) is not None

    assert laid([(2, 3), (2,), (4, 2)])
    assert laid([(4, 2), (2, 3), (2,)])
    assert not laid([(2,), (2, 3), (4, 2)])
    assert not laid([(2, 3), (4, 2), (2,)])
    assert not laid([(2, 3), (2,)])
    assert laid([(2, 3), (4, 2)], [(2,)])
    assert lay([], tree_of([]), 0, shapes.__getitem__, Work()) is not None


def test_a_transformer_is_laid_in_a_moment_and_what_would_take_forever_is_not() -> None:
    linear = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    shapes: Shapes = {"embed.weight": (90, 8)}
    for layer in range(24):
        shapes |= {f"layers.{layer}.{part}.weight": (8, 8) for part in linear}
        shapes |= {f"layers.{layer}.mlp.down.weight": (8, 32), f"layers.{layer}.norm.weight": (8,)}
    work = Work()
    laid = lay([list(shapes.values())], tree_of(sorted(shapes)), len(shapes), shapes.get, work)
    assert laid is not None
    assert set(laid.certain.values()) == {n for n in shapes if "proj" not in n}
    assert work.left > 200_000
    started = time.monotonic()
    for flat in (
        {f"{chr(97 + n // 26)}{chr(97 + n % 26)}.weight": (3,) for n in range(200)},
        {f"x{'abcdefgh'[n % 8]}{'y' * n}.weight": (3,) for n in range(3000)},
    ):
        assert lay([[(3,)] * len(flat)], tree_of(flat), len(flat), flat.get, Work()) is None
    assert time.monotonic() - started < 20  # the machine may be busy; without limits it is hours
