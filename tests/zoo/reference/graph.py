"""Depth, branches and where they join, by searching the autograd graph with brute force.

The graph is first reduced to the sites: one site leads to another where a way between them passes
no third. Then a site lies on a branch if without it the loss still reaches every source that it is
fed from (a site that is fed from none, such as an embedding of positions: every source at all).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tests.zoo.reference.capture import Seen

LOSS = -1


@dataclass(frozen=True)
class Place:
    """Where a site stands in the graph; ``traced`` is False where no gradient can reach it."""

    depth: int
    branch: bool
    joins: str | None
    traced: bool = True


def towards_inputs(node: Any) -> list[Any]:
    edges = [child for child, _ in node.next_functions]
    if node.name().endswith("CopyBackwards"):
        edges = edges[1:]  # what was overwritten has no part in the result
    return [child for child in edges if child is not None]


def in_order(start: Any) -> list[Any]:
    """All nodes from ``start`` on, each after everything it leads to."""
    done: set[Any] = set()
    order, stack = [], [(start, False)]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((child, False) for child in towards_inputs(node))
    return order


class SiteGraph:
    """The sites of one pass; ``before[i]`` are the sites right before site i (or the LOSS)."""

    def __init__(self, sites: Sequence[Seen], loss: Tensor) -> None:
        self.sites = sites
        self.at = {seen.y.grad_fn: i for i, seen in enumerate(sites) if seen.y.grad_fn is not None}
        starts = {i: node for node, i in self.at.items()}
        if loss.grad_fn is not None:
            starts[LOSS] = loss.grad_fn
        self.before = {i: self._sites_right_before(node) for i, node in starts.items()}
        self.depths = {i: self._depth(node) for i, node in starts.items()}

    def _sites_right_before(self, start: Any) -> set[int]:
        found, seen, stack = set(), set(), towards_inputs(start)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in self.at:
                found.add(self.at[node])
            else:
                stack.extend(towards_inputs(node))
        return found

    def _depth(self, start: Any) -> int:
        longest: dict[Any, int] = {}
        for node in in_order(start):
            behind = max((longest[child] for child in towards_inputs(node)), default=0)
            longest[node] = behind + (node in self.at)
        return longest[start] - (start in self.at)

    def reached(self, start: int, without: Iterable[int] = ()) -> set[int]:
        """The sites on the ways from a site (or the LOSS) to the inputs that avoid others."""
        blocked, seen, stack = set(without), set(), list(self.before.get(start, ()))
        while stack:
            site = stack.pop()
            if site not in seen and site not in blocked:
                seen.add(site)
                stack.extend(self.before[site])
        return seen

    def sources(self, fed: Iterable[int]) -> set[int]:
        """The sites that the batch reaches first: no site before them is fed by it."""
        fed = {i for i in fed if i in self.before}
        return {i for i in fed if not self.reached(i) & fed}

    def dominates(self, j: int, i: int) -> bool:
        """Whether all that comes of site i passes j on its way to the loss."""
        return j != LOSS and i not in self.reached(LOSS, [j])

    def place(self, i: int, fed: Iterable[int]) -> Place:
        if i not in self.before:
            return Place(0, False, None, traced=False)
        sources = self.sources(fed)
        sources = sources & (self.reached(i) | {i}) or sources
        is_passed = i in self.reached(LOSS)  # what the loss does not see lies on no path
        if not is_passed or not sources <= self.reached(LOSS, [i]):
            return Place(self.depths[i], False, None)
        behind = [j for j in self.before if i in self.reached(j) and self.dominates(j, i)]
        passed = [j for j in behind if not self.reached(LOSS, [i, j]) & sources]
        first = [j for j in passed if not any(k in self.reached(j) for k in passed)]
        assert len(first) <= 1, "what all ways pass lies on one line"
        return Place(self.depths[i], True, self.sites[first[0]].name if first else None)
