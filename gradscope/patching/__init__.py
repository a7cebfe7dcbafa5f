"""Puts artificial derivatives where a model computes its activations, and takes them off again.

Reached are activation modules and single uses of them, functions and methods that a module's
forward calls, and the nodes of graphs. Weights, keys and outputs stay as they are, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count

import torch
from torch import nn
from torch.fx import GraphModule

from gradscope.derivatives import Derivative
from gradscope.errors import PlanError
from gradscope.patching.graphs import reach_nodes
from gradscope.patching.places import Place, makes_calls, operators_of, places_of, stands_in
from gradscope.patching.setting import Setting
from gradscope.patching.tally import Tally
from gradscope.patching.wearing import Entry, Wiring, take_off, wear
from gradscope.profile.operators import is_activation
from gradscope.profile.sharding import bare

__all__ = ["Reached", "Setting", "operators_of", "places_of", "reach", "stands_in"]

Undo = Callable[[], None]


class Reached:
    """What one prescription has patched; calling it takes it all off.

    Attributes:
        settings: one for each site, in the order they were prescribed; a pattern has several.
    """

    def __init__(self, settings: Sequence[Setting], undos: list[Undo]) -> None:
        self.settings = tuple(settings)
        self._undos = undos

    def __call__(self) -> None:
        """Takes everything off, last first. A second call does nothing."""
        while self._undos:
            self._undos.pop()()


def reach(
    model: nn.Module,
    sites: Iterable[tuple[str, Derivative]],
    strength: float = 1.0,
    asker: str = "artificial-derivative",
) -> Reached:
    """Puts derivatives at sites.

    Args:
        model: patched in place; without wrappers of DDP or ``torch.compile``.
        sites: names or patterns (see ``places``), with what is put there.
        strength: its share, 0 to 1; see ``Setting``.
        asker: who asks, for messages.

    Returns:
        What was done; calling it undoes it.

    Raises:
        PlanError: a site cannot be reached; the model is unchanged then.
    """
    chosen: dict[tuple[int, str, bool, int | None], tuple[Place, Setting]] = {}
    for site, derivative in sites:
        for place in places_of(model, site, derivative, asker):
            key = (id(place.module), place.operator, place.call, place.use)
            if key in chosen:
                raise PlanError(
                    f"{asker} names {place.label!r} twice: as {chosen[key][0].site!r} and as "
                    f"{site!r}."
                )
            chosen[key] = place, Setting(place.label, derivative, strength)
    undos: list[Undo] = []
    try:
        _reach_all(model, list(chosen.values()), undos, asker)
    except BaseException:
        while undos:
            undos.pop()()
        raise
    return Reached([setting for _, setting in chosen.values()], undos)


def _reach_all(
    model: nn.Module, chosen: list[tuple[Place, Setting]], undos: list[Undo], asker: str
) -> None:
    graphs: dict[int, list[tuple[Place, Setting]]] = {}
    rest: list[tuple[Place, Setting]] = []
    for place, setting in chosen:
        if place.call and isinstance(place.module, GraphModule):
            graphs.setdefault(id(place.module), []).append((place, setting))
        else:
            rest.append((place, setting))
    for entries in graphs.values():
        module = entries[0][0].module
        assert isinstance(module, GraphModule)
        undos.append(reach_nodes(module, entries, asker))
    tally = _counting(model, undos, asker) if any(p.use is not None for p, _ in rest) else None
    for place, setting in rest:
        wiring = _worn(place.module, place.name, tally, undos)
        entries_of = wiring.calls if place.call else wiring.own
        entry = Entry(place.operator, place.use, setting)
        _add(entries_of, entry, undos)
    names = {id(module): name for name, module in model.named_modules()}
    owners = {id(place.module): place for place, _ in rest if place.call}
    for place in owners.values():
        for inner in place.module.modules():
            if inner is not place.module and id(inner) not in owners:
                _shield(inner, names.get(id(inner), ""), place, undos, asker)


def _counting(model: nn.Module, undos: list[Undo], asker: str) -> Tally:
    """The tally of a model, which every pass of it begins anew."""
    if isinstance(model, GraphModule):
        raise PlanError(
            f"{asker} names single uses in a graph module, whose passes cannot be counted; name "
            "all uses of the module, or nodes of the graph."
        )
    wiring: Wiring | None = vars(model).get("_gradscope")
    tally = (None if wiring is None else wiring.tally) or Tally()
    _worn(model, "", tally, undos)
    return tally


def _worn(module: nn.Module, name: str, tally: Tally | None, undos: list[Undo]) -> Wiring:
    wiring = wear(module, name, tally)
    undos.append(lambda: take_off(module))
    return wiring


def _add(entries: dict[str, Entry], entry: Entry, undos: list[Undo]) -> None:
    """Adds an entry, under a key that no other derivative has ever had there."""
    label = f"{entry.operator} {entry.setting.derivative!r}"
    key = next(key for key in (f"{label} {number}" for number in count()) if key not in entries)
    entries[key] = entry

    def undo() -> None:
        entries.pop(key, None)

    undos.append(undo)


def _shield(inner: nn.Module, name: str, place: Place, undos: list[Undo], asker: str) -> None:
    """Keeps the calls inside a module from being taken for those of the module around it."""
    if isinstance(inner, GraphModule):
        raise PlanError(
            f"{asker} is prescribed for {place.site!r}; what that module calls cannot be told from "
            f"what the graph module {name!r} inside it calls."
        )
    # Script calls no mode; and what is compiled is inside, and comes by itself.
    if isinstance(inner, torch.jit.ScriptModule) or bare(inner) is not inner:
        return
    if makes_calls(inner) or is_activation(inner):
        _worn(inner, name, None, undos)
