"""What the autograd graph says of sites: how deep they lie, and whether there is a way around.

Nodes are the ``grad_fn`` objects of torch; an edge leads from a result to what it was made of.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["Depths", "behind_reshapes", "leaves", "reduction", "ways_around"]

Node = Any

# What may lie between a loss and the reduction that made it.
_SCALAR_STEPS = (
    "Add", "Alias", "Clone", "Div", "Mul", "Neg", "Reshape", "Squeeze", "Sub", "ToCopy",
    "Unsqueeze", "View",
)  # fmt: skip

# What only lays a tensor out anew, or hands on another type of it.
_RESHAPES = (
    "Alias", "Clone", "Expand", "Permute", "Reshape", "Select", "Slice", "Squeeze", "TBackward",
    "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View",
)  # fmt: skip

# What stands at the ends of a graph.
_LEAF = "torch::autograd::AccumulateGrad"

# Steps from a loss to the reduction that made it, at most.
_FEW = 100


def _inputs(node: Node) -> list[Node]:
    return [each for each, _ in node.next_functions if each is not None]


def behind_reshapes(node: Node | None, until: Container[Node] = ()) -> Node | None:
    """The node that made the numbers of a tensor which may have been laid out anew since.

    Or the first one on the way there that is among ``until``.
    """
    while node is not None and node not in until and node.name().startswith(_RESHAPES):
        node = next(iter(_inputs(node)), None)
    return node


class Depths:
    """Counts sites along the longest path of the graph to each new one, as they are made."""

    def __init__(self) -> None:
        # Sites on the longest path up to a node, the node's own included.
        self._passed: dict[Node, int] = {}

    def place(self, node: Node, least: int) -> int:
        """The depth of a site whose output was made by ``node``, which counts from now on.

        ``least`` is what the data has passed on its way there, which the graph does not show of
        frozen parts and of what is recomputed in the backward pass.
        """
        depth = max(self._up_to(node), least)
        self._passed[node] = depth + 1
        return depth

    def _up_to(self, goal: Node) -> int:
        known = self._passed
        if goal in known:
            return known[goal]
        stack = [goal]
        while stack:
            node = stack[-1]
            if node in known:
                stack.pop()
                continue
            inputs = _inputs(node)
            missing = [each for each in inputs if each not in known]
            if missing:
                stack += missing
                continue
            stack.pop()
            known[node] = max((known[each] for each in inputs), default=0)
        return known[goal]


def leaves(loss: Node | None) -> Iterator[Tensor]:
    """The tensors that a backward pass would leave a gradient on, but for the loss itself."""
    if loss is None:
        return
    for node in _from(loss):
        if node.name() == _LEAF:
            yield node.variable


def ways_around(
    loss: Node, sites: Mapping[Node, str], sources: Iterable[Node]
) -> dict[Node, Node | None]:
    """The sites that gradients can get around on their way from the loss to the sources.

    Args:
        loss: the loss's node.
        sites: the nodes that made the sites' outputs, with their names.
        sources: the sites where the model's inputs enter.

    Returns:
        For each site that some way from the loss to every source leaves out, the nearest site
        towards the loss where it joins the trunk: one that all ways from the loss to a source
        pass, and all ways to it. None where there is no such site.
    """
    # Leaves are on no way between two sites, and may have users without number.
    order = [node for node in _from(loss) if node.name() != _LEAF]
    place = {node: index for index, node in enumerate(order)}
    users: dict[Node, list[Node]] = {node: [] for node in order}
    for node in order:
        for each in _inputs(node):
            if each in users:
                users[each].append(node)
    # The immediate dominator of a node: the last one before it on every way from the loss. With
    # all users before what they use, one pass finds it (Cooper, Harvey, Kennedy 2001).
    dominator: dict[Node, Node] = {loss: loss}
    for node in order[1:]:
        common, *others = users[node]
        for other in others:
            while common is not other:
                if place[common] > place[other]:
                    common = dominator[common]
                else:
                    other = dominator[other]
        dominator[node] = common
    trunk: set[Node] = set()
    for source in sources:
        node = source
        while node in dominator and node not in trunk:
            trunk.add(node)
            node = dominator[node]
    around: dict[Node, Node | None] = {}
    for site in sites:
        if site in trunk or site not in dominator:
            continue
        node = dominator[site]
        while not (node in sites and node in trunk) and node is not loss:
            node = dominator[node]
        around[site] = node if node in sites and node in trunk else None
    return around


def _from(loss: Node) -> list[Node]:
    """All nodes that the loss depends on, each before what it was made of."""
    finished: list[Node] = []
    seen = {loss}
    stack = [(loss, iter(_inputs(loss)))]
    while stack:
        node, rest = stack[-1]
        for each in rest:
            if each not in seen:
                seen.add(each)
                stack.append((each, iter(_inputs(each))))
                break
        else:
            stack.pop()
            finished.append(node)
    return finished[::-1]


def reduction(loss: Node | None, samples: int) -> str:
    """``sum`` where the loss is a plain sum over its samples, else ``mean``.

    What decides is the reduction that takes samples away: the deepest one of those that the loss
    ends with. A sum that is divided by about as many as there are samples is a mean.
    """
    node, factor, added, found = loss, 1.0, 0, ""
    for _ in range(_FEW + 2 * samples):
        if node is None:
            break
        name = node.name()
        said = getattr(node, "_saved_reduction", None)
        if said is not None:
            found = {1: "mean", 2: "sum"}.get(said, found)
            break
        if name.startswith(("Mean", "Sum")):
            if _takes_samples(node, samples):
                found = "mean" if name.startswith("Mean") else "sum"
        elif not name.startswith(_SCALAR_STEPS):
            break
        added += name.startswith("Add")
        factor *= _multiplied_by(node)
        node = next(iter(_inputs(node)), None)
    if not found and added >= samples - 1:
        # One sample after the other has been added up.
        found = "sum"
    return "sum" if found == "sum" and factor * math.sqrt(samples) > 1 else "mean"


def _takes_samples(node: Node, samples: int) -> bool:
    """Whether a reduction goes over dimension 0, and that holds samples."""
    shape = tuple(node._saved_self_sym_sizes)
    saved = getattr(node, "_saved_dim", ())
    # Negative dimensions are saved without their sign.
    dims = [(dim - (1 << 64) if dim >= 1 << 63 else dim) % len(shape) for dim in saved if shape]
    return bool(shape) and shape[0] % samples == 0 and (not dims or 0 in dims)


def _multiplied_by(node: Node) -> float:
    """The number that a scalar step multiplies by; one where it is not known."""
    other = getattr(node, "_saved_other", None)
    if other is None or getattr(other, "numel", lambda: 1)() != 1 or not float(other):
        return 1.0
    name = node.name()
    if name.startswith("Div"):
        return 1 / abs(float(other))
    return abs(float(other)) if name.startswith("Mul") else 1.0
