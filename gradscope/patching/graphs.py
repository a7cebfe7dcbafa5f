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
    is_relu,
    overloads_of,
)
from gradscope.patching.places import Place
from gradscope.patching.setting import Setting

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


def reach_nodes(
    module: GraphModule, places: Sequence[tuple[Place, Setting]], asker: str
) -> Callable[[], None]:
    """Puts settings in the place of nodes, in a copy of the graph that takes the graph's place.

    Returns:
        What puts the graph itself back.

    Raises:
        PlanError: the graph has no such node; nothing is changed then.
    """
    original, graph = module.graph, copy.deepcopy(module.graph)
    added: dict[str, DifferentiatedNode] = {}
    chosen: list[tuple[Place, Setting, list[Node]]] = []
    for place, setting in places:
        nodes = [node for node in graph.nodes if _computes(node, place.operator, module)]
        meant = nodes if place.use is None else nodes[place.use : place.use + 1]
        if not meant:
            raise PlanError(
                f"{asker} prescribes {setting.derivative.name} for {place.site!r}; that graph has "
                f"{len(nodes)} nodes that compute {place.operator}."
            )
        chosen.append((place, setting, meant))
    for place, setting, meant in chosen:
        for node in meant:
            name = f"_gradscope_{len(added)}_{place.operator}"
            while hasattr(module, name):
                name = f"{name}_"
            added[name] = _replace(graph, node, place, setting, name)
    for name, node_module in added.items():
        module.add_module(name, node_module)
    module.graph = graph

    def undo() -> None:
        module.graph = original
        for name in added:
            delattr(module, name)

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
        and is_relu(clamps[target], tuple(node.args), dict(node.kwargs))
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
