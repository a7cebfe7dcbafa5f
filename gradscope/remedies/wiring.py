"""Which module feeds which: what has to be known before a model's structure can be edited.

It is read from a symbolic trace of the forward pass. A model that cannot be traced (its forward
depends on values) is known only inside its ``nn.Sequential`` containers.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from gradscope.profile.operators import is_activation, role_of
from gradscope.profile.preserve import preserved
from gradscope.records import Role

__all__ = ["Wire", "activation_after", "chain", "layer_after", "layers_with_activation", "wires"]


@dataclass(frozen=True)
class Wire:
    """One operation of the forward pass.

    Attributes:
        name: of the module that is called; empty for functions, methods and unknown ones.
        sources: positions of the operations whose results it takes; None is the model's input or
            something unknown.
        users: how many operations take its result; the model's output counts.
    """

    name: str
    sources: tuple[int | None, ...]
    users: int


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or role_of(module) is not None


def wires(model: nn.Module) -> list[Wire]:
    """The operations of a forward pass in execution order, as far as they are known.

    The model is left as it was. Modules that are used more than once are not named.
    """
    try:
        with preserved(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = _Tracer().trace(model)
    except Exception:  # whatever the model's code raises on a value that is not there
        return _named_once(model, list(_of_containers(model)))
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    at = {node: index for index, node in enumerate(nodes)}
    return _named_once(
        model,
        [
            Wire(
                str(node.target) if node.op == "call_module" else "",
                tuple(at.get(source) for source in node.all_input_nodes),
                len(node.users),
            )
            for node in nodes
        ],
    )


def _of_containers(model: nn.Module) -> Iterator[Wire]:
    index = 0
    for path, container in model.named_modules():
        if type(container) is not nn.Sequential:
            continue
        last = len(container) - 1
        for position, (name, inner) in enumerate(container.named_children()):
            plain = not any(True for _ in inner.children())
            full = f"{path}.{name}" if path else name
            # Who takes the last one's result is not known: it counts as two.
            source = index - 1 if position else None
            yield Wire(full if plain else "", (source,), 2 if position == last else 1)
            index += 1


def _named_once(model: nn.Module, found: list[Wire]) -> list[Wire]:
    modules = dict(model.named_modules(remove_duplicate=False))
    uses = Counter(id(modules[wire.name]) for wire in found if wire.name in modules)
    return [
        wire
        if wire.name in modules and uses[id(modules[wire.name])] == 1
        else Wire("", wire.sources, wire.users)
        for wire in found
    ]


def _only_user(found: list[Wire], index: int) -> int | None:
    if found[index].users != 1:
        return None
    return next((at for at, wire in enumerate(found) if wire.sources == (index,)), None)


def activation_after(model: nn.Module, found: list[Wire], layer: str) -> str | None:
    """The activation module that alone takes what a layer puts out; None where there is none."""
    index = next((at for at, wire in enumerate(found) if wire.name == layer), None)
    user = None if index is None else _only_user(found, index)
    name = "" if user is None else found[user].name
    return name if name and is_activation(model.get_submodule(name)) else None


def layers_with_activation(model: nn.Module, found: list[Wire]) -> dict[str, str]:
    """The layers that an activation module follows at once, by name, with the activation's."""
    return {
        wire.name: after
        for wire in found
        if wire.name
        and role_of(model.get_submodule(wire.name)) is Role.LAYER
        and (after := activation_after(model, found, wire.name)) is not None
    }


def layer_after(model: nn.Module, found: list[Wire], activation: str) -> str | None:
    """The linear layer or convolution that alone takes an activation's output.

    Dropout and pooling may lie between, which keep units apart.
    """
    passing = (
        nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.MaxPool1d,
        nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    )  # fmt: skip
    index = next((at for at, wire in enumerate(found) if wire.name == activation), None)
    while index is not None:
        index = _only_user(found, index)
        if index is None or not found[index].name:
            return None
        module = model.get_submodule(found[index].name)
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            return found[index].name
        if not isinstance(module, passing):
            return None
    return None


def chain(found: list[Wire]) -> list[str] | None:
    """The names of all operations where each takes the result of the one before; else None."""
    straight = all(
        wire.sources == ((index - 1,) if index else (None,)) and wire.users == 1
        for index, wire in enumerate(found)
    )
    return [wire.name for wire in found] if found and straight else None
