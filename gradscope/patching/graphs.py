"""Graph modules of torch.fx and exported programs: their nodes are changed, not their calls.

Sites are counted in the order of the graph: ``::relu@1`` is the second node that computes a ReLU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from gradscope.errors import PlanError
from gradscope.patching.functions import (
    CLAMP_NODES,
    CLAMPS,
    bound,
    functions_of,
    overloads_of,
)
from gradscope.patching.places import Place
from gradscope.patching.setting import Setting
from gradscope.profile.operators import is_clamped_relu

__all__ = ["reach_nodes"]


class DifferentiatedNode(nn.Module):
    """Takes the place of one node's function; it has neither parameters nor buffers."""

    def __init__(self, operator: str, setting: Setting, inplace: bool) -> None:
        super().__init__()
        self.operator, self.setting, self.inplace = operator, setting, inplace

    def forward(self, x: Tensor, **arguments: Any) -> Any:
        return self.setting(x, self.inplace, arguments)

    def extra_repr(self) -> str:
        return f"{self.operator}, {self.setting.derivative!r}"


class _Change:
    """What one patch puts into a graph module."""

    def __init__(
        self, module: GraphModule, places: Sequence[tuple[Place, Setting]], asker: str
    ) -> None:
        self.module, self.places, self.asker = module, places, asker
        self.added: dict[str, DifferentiatedNode] = {}

    def make(self, graph: Graph) -> None:
        """Puts the settings in the place of nodes of ``graph``, which becomes the module's.

        Raises:
            PlanError: the graph has no such node; nothing is changed then.
        """
        added: dict[str, DifferentiatedNode] = {}
        for place, setting, node in self._chosen(graph):
            name = f"_gradscope_{len(added)}_{place.operator}"
            while hasattr(self.module, name):
                name = f"{name}_"
            added[name] = _replace(graph, node, place, setting, name)
        self.added = added
        for name, node_module in added.items():
            self.module.add_module(name, node_module)
        self.module.graph = graph

    def _chosen(self, graph: Graph) -> list[tuple[Place, Setting, Node]]:
        chosen: list[tuple[Place, Setting, Node]] = []
        for place, setting in self.places:
            nodes = [node for node in graph.nodes if _computes(node, place.operator, self.module)]
            meant = nodes if place.use is None else nodes[place.use : place.use + 1]
            if not meant:
                raise PlanError(
                    f"{self.asker} prescribes {setting.derivative.name} for {place.site!r}; that "
                    f"graph has {len(nodes)} nodes that compute {place.operator}."
                )
            chosen += [(place, setting, node) for node in meant]
        return chosen


class _Changes:
    """The patches that are on a graph module, as its attribute; a copy of it has none to undo.

    Attributes:
        original: the graph without them.
        all: in the order they were made.
    """

    def __init__(self, original: Graph | None = None) -> None:
        self.original, self.all = original, list[_Change]()

    def __deepcopy__(self, memo: dict[int, object]) -> _Changes:
        return _Changes()

    def __reduce__(self) -> tuple[type[_Changes], tuple[()]]:
        return _Changes, ()


def reach_nodes(
    module: GraphModule, places: Sequence[tuple[Place, Setting]], asker: str
) -> Callable[[], None]:
    """Puts settings in the place of nodes, in a copy of the graph that takes the graph's place.

    Returns:
        What takes them out again. With the last patch, in whatever order, the graph itself is back.

    Raises:
        PlanError: the graph has no such node; nothing is changed then.
    """
    before, change = module.graph, _Change(module, places, asker)
    change.make(copy.deepcopy(before))
    changes: _Changes | None = vars(module).get("_gradscope_changes")
    if changes is None or not changes.all:
        changes = vars(module)["_gradscope_changes"] = _Changes(before)
    changes.all.append(change)

    def undo() -> None:
        for each in changes.all:
            for name in each.added:
                delattr(module, name)
        changes.all.remove(change)
        assert changes.original is not None
        graph = changes.original
        for each in changes.all:
            each.make(copy.deepcopy(graph))
            graph = module.graph
        if not changes.all:
            module.graph = graph
            del vars(module)["_gradscope_changes"]

    return undo


def _computes(node: Node, operator: str, module: GraphModule) -> bool:
    if node.op == "call_module":
        placed = getattr(module, str(node.target), None)
        return isinstance(placed, DifferentiatedNode) and placed.operator == operator
    target = _function(node)
    if target is None:
        return False
    clamps = CLAMPS | CLAMP_NODES
    if target in functions_of(operator) | overloads_of(operator):
        return True
    return (
        operator == "relu"
        and target in clamps
        and is_clamped_relu(clamps[target], tuple(node.args), dict(node.kwargs))
    )


def _function(node: Node) -> Callable[..., Any] | None:
    if node.op == "call_function" and callable(node.target):
        return node.target
    if node.op == "call_method":
        return getattr(Tensor, str(node.target), None)
    return None


def _replace(
    graph: Graph, node: Node, place: Place, setting: Setting, name: str
) -> DifferentiatedNode:
    if node.op == "call_module":
        raise PlanError(f"{place.site!r} is patched already; undo that patch first.")
    target = _function(node)
    assert target is not None
    # A node stands for the tensor that it will be; what binds arguments asks for one.
    stand_in = torch.empty(0)
    given = bound(setting.derivative, target, (stand_in, *node.args[1:]), node.kwargs)
    if given is None or not node.args:
        raise PlanError(
            f"{place.site!r} is called with arguments that {setting.derivative.name} does not know."
        )
    _, inplace, arguments = given
    with graph.inserting_before(node):
        new = graph.create_node("call_module", name, (node.args[0],), arguments, node.name)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return DifferentiatedNode(place.operator, setting, inplace)
